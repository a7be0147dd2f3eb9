/** What every algorithm must learn, whatever the seed: a bandit and a sequence task. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Algorithm } from '../../../lib/algorithm/algorithm.js';
import type { Model } from '../../../lib/model.js';
import type { PolicyOptions } from '../../../lib/policy.js';
import { bandit, containsToken, gameModel, learn } from './token-game.js';

export interface Learner {
  readonly name: string;
  readonly bandit: () => Algorithm;
  readonly sequence: () => Algorithm;
  readonly policy?: Omit<PolicyOptions, 'seed'>;
  /** Updates of the sequence task; 20. */
  readonly rounds?: number;
}

const SEEDS = [1, 2, 3, 4, 5];

export function learns({ name, policy, rounds = 20, ...make }: Learner): void {
  describe(`${name} learns`, () => {
    let model: Model;
    beforeAll(async () => {
      model = await gameModel();
    });
    afterAll(() => model.close());

    it.each(SEEDS)('a bandit of 32 arms, seed %i', async (seed) => {
      const settings = { seed, rounds: 25, ...policy };
      const { before, after } = await learn(model, bandit(seed), make.bandit(), settings);
      expect(before).toBeLessThan(0.7);
      expect(after).toBeGreaterThanOrEqual(0.9);
    });

    it.each(SEEDS)('to say token X within six, seed %i', async (seed) => {
      const settings = { seed, rounds, ...policy };
      const { before, after } = await learn(model, containsToken(seed), make.sequence(), settings);
      expect(before).toBeLessThan(0.5);
      expect(after).toBeGreaterThanOrEqual(0.95);
    });
  });
}
