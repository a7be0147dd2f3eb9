// GRPO, RLOO and ReST-EM learn; PPO: ppo-learning.test.ts.
import { grpo } from '../../lib/algorithm/grpo.js';
import { restem } from '../../lib/algorithm/restem.js';
import { rloo } from '../../lib/algorithm/rloo.js';
import { learns } from './helpers/learning-tests.js';

const OPTIONS = { minibatch: 16, learningRate: 5e-3, klCoefficient: 0, maxTokens: 6 };

learns({ name: 'GRPO', bandit: () => grpo(OPTIONS), sequence: () => grpo(OPTIONS) });
learns({ name: 'RLOO', bandit: () => rloo(OPTIONS), sequence: () => rloo(OPTIONS) });
learns({
  name: 'ReST-EM',
  bandit: () => restem({ keep: 'best', learningRate: 2e-3 }),
  // A reward of 0 or 1: all successes are learnt, as in the paper. It learns no less from what a success holds beside X.
  sequence: () => restem({ keep: 'aboveThreshold', threshold: 0, minibatch: 16, learningRate: 2e-3 }),
  rounds: 50,
});
