/** What a run has trained: the policy of a checkpoint, as a delta. */
import { join } from 'node:path';
import { z } from 'zod';
import { Delta } from '../delta.js';
import { makeError } from '../errors.js';
import { check, readJsonIfPresent } from '../format/json.js';
import type { Model } from '../model.js';
import { Policy } from '../policy.js';
import { checkpointPolicy, listCheckpoints } from './checkpoint.js';
import { exists, realDisk } from './disk.js';

/** Of a run's resolved configuration, what its policy is made of: measures and tasks of the caller's own need not be known. */
const schema = z.looseObject({
  model: z.string('a path or name'),
  policy: z.looseObject({
    rank: z.int('a rank').min(1, 'a rank'),
    alpha: z.number('a number'),
    targets: z.array(z.string(), 'a list of modules'),
  }),
});
export type TrainedRun = z.infer<typeof schema>;

/** The run in a folder; undefined when there is no config.json in it. Errors: `RUN_INVALID`. */
export async function readTrainedRun(run: string): Promise<TrainedRun | undefined> {
  const path = join(run, 'config.json');
  const json = await readJsonIfPresent(path, undefined, 'RUN_INVALID');
  return json === undefined ? undefined : check(schema, json, path, 'RUN_INVALID');
}

/**
 * The policy after `round`; without one, the finished run's policy, or else that of its newest checkpoint. Errors:
 * `RUN_INVALID` when there is no such checkpoint.
 */
export async function trainedDelta(
  model: Model,
  run: string,
  { policy: { rank, alpha, targets } }: TrainedRun,
  round?: number,
): Promise<Delta> {
  const finished = join(run, 'policy');
  if (round === undefined && (await exists(realDisk, finished))) return Delta.load(model, finished);
  const rounds = await listCheckpoints(realDisk, run);
  const chosen = round ?? rounds.at(-1);
  if (chosen === undefined || !rounds.includes(chosen)) {
    const found = rounds.length > 0 ? `checkpoints of the rounds ${rounds.join(', ')}` : 'no checkpoints';
    throw makeError(
      'RUN_INVALID',
      `${run} has ${found}; expected ${round === undefined ? 'one' : `round ${round}`}`,
    );
  }
  const policy = Policy.create(model, { rank, alpha, targets });
  try {
    await policy.load(checkpointPolicy(run, chosen));
    return policy.delta();
  } finally {
    await policy.close();
  }
}
