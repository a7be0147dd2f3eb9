/** The reward of a run, from its configuration and from what the caller adds. */
import type { Grader } from '../reward/grader.js';
import { judge } from '../reward/judge.js';
import type { RewardOptions } from '../reward/options.js';
import { readPreferences } from '../reward/preference-file.js';
import { preferences, preferenceTerm } from '../reward/preferences.js';
import type { RewardTerm } from '../reward/terms.js';
import type { RunConfig } from './config.js';
import { fingerprint, realDisk } from './disk.js';
import { loadFunction } from './module.js';

/** Parts of a reward that no configuration can hold. A run is resumed with the same ones. */
export interface RewardParticipants {
  readonly graders?: readonly Grader[];
  readonly terms?: readonly RewardTerm[];
}

/** Loads what the configuration names. Throws `INPUT_INVALID` for a module that exports no function. */
export async function rewardOf(
  { reward }: Pick<RunConfig, 'reward'>,
  given: RewardParticipants = {},
): Promise<Partial<RewardOptions>> {
  const { functions, judge: judging, preferences: rated, ...options } = reward;
  const terms: RewardTerm[] = [];
  for (const one of functions) terms.push(await loadTerm(one));
  if (rated) {
    const { score } = preferences(await readPreferences(rated.file));
    terms.push(preferenceTerm(score, rated.weight));
  }
  return {
    ...options,
    graders: [...(judging ? [judge(judging)] : []), ...(given.graders ?? [])],
    terms: [...terms, ...(given.terms ?? [])],
  };
}

/** SHA-256 of the files that a reward is made of, in order; undefined when it names none. */
export async function rewardFiles({ reward }: Pick<RunConfig, 'reward'>): Promise<string | undefined> {
  const files = [
    ...reward.functions.map(({ module }) => module),
    ...(reward.preferences ? [reward.preferences.file] : []),
  ];
  const hashes: string[] = [];
  for (const file of files) hashes.push((await fingerprint(realDisk, file)).sha256);
  return files.length > 0 ? hashes.join(' ') : undefined;
}

type FunctionConfig = RunConfig['reward']['functions'][number];

async function loadTerm({
  name,
  module,
  export: key,
  weight,
  concurrency,
}: FunctionConfig): Promise<RewardTerm> {
  const reward = await loadFunction(`reward function "${name}"`, module, key);
  return { name, weight, concurrency, reward: reward as RewardTerm['reward'] };
}
