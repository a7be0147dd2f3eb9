// PPO learns, with either baseline, and nothing from a reward that ignores the edit.
import { expect, it } from 'vitest';
import type { Rollout } from '../../lib/algorithm/algorithm.js';
import { grpo } from '../../lib/algorithm/grpo.js';
import { ppo } from '../../lib/algorithm/ppo.js';
import { rloo } from '../../lib/algorithm/rloo.js';
import { Policy } from '../../lib/policy.js';
import { learns } from './helpers/learning-tests.js';
import { gameModel } from './helpers/token-game.js';

const OPTIONS = { minibatch: 16, learningRate: 5e-3, klCoefficient: 0, maxTokens: 6 };
const withValues = () => ppo({ ...OPTIONS, baseline: 'value' });

learns({ name: 'PPO with the group baseline', bandit: () => ppo(OPTIONS), sequence: () => ppo(OPTIONS) });
learns({
  name: 'PPO with the value head',
  bandit: withValues,
  sequence: withValues,
  policy: { valueHead: true, valueBias: 0.2 },
});

it.each([ppo(OPTIONS), grpo(OPTIONS), rloo(OPTIONS)])(
  '$name moves not a single weight where all rewards are equal',
  async (algorithm) => {
    await using model = await gameModel();
    await using policy = Policy.create(model, { rank: 8, seed: 6 });
    const rollouts = Array.from({ length: 8 }, (_, index): Rollout => {
      const tokens = Int32Array.of(1, 2, 3 + index, 4, 5);
      return {
        group: index >> 2,
        tokens,
        promptLength: 2,
        samplerLogprobs: new Float32Array(3),
        reward: 0.7,
      };
    });
    for (let round = 0; round < 3; round++) await algorithm.update(policy, rollouts, { round });
    await using untouched = Policy.create(model, { rank: 8, seed: 6 });
    expect(policy.version).toBeGreaterThan(0);
    expect(policy.parameters()).toEqual(untouched.parameters());
  },
);
