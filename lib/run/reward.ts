/** The reward of a run, from its configuration and from what the caller adds. */
import { pathToFileURL } from 'node:url';
import { makeError } from '../errors.js';
import type { Grader } from '../reward/grader.js';
import { judge } from '../reward/judge.js';
import type { RewardOptions } from '../reward/options.js';
import { readPreferences } from '../reward/preference-file.js';
import { preferences, preferenceTerm } from '../reward/preferences.js';
import type { RewardTerm } from '../reward/terms.js';
import type { RunConfig } from './config.js';

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

type FunctionConfig = RunConfig['reward']['functions'][number];

async function loadTerm({
  name,
  module,
  export: key,
  weight,
  concurrency,
}: FunctionConfig): Promise<RewardTerm> {
  let found: Record<string, unknown>;
  try {
    found = (await import(pathToFileURL(module).href)) as Record<string, unknown>;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const missing = code === 'ERR_MODULE_NOT_FOUND';
    throw makeError(
      missing ? 'FILE_NOT_FOUND' : 'INPUT_INVALID',
      `reward function "${name}": ${module} cannot be loaded (${message.split('\n')[0]})`,
      cause,
    );
  }
  const reward = found[key];
  if (typeof reward === 'function')
    return { name, weight, concurrency, reward: reward as RewardTerm['reward'] };
  throw makeError(
    'INPUT_INVALID',
    `reward function "${name}": ${module} exports ${typeof reward} as "${key}"; expected a function`,
  );
}
