// All benchmarks by name; `selfedit bench NAME` runs this.
import { divergence } from './divergence.mjs';
import { evaluate } from './evaluate.mjs';
import { eventLoop } from './event-loop.mjs';
import { fork } from './fork.mjs';
import { generate } from './generate.mjs';
import { innerLoop } from './inner-loop.mjs';
import { load } from './load.mjs';
import { round } from './round.mjs';
import { score } from './score.mjs';
import { sparse } from './sparse.mjs';
import { update } from './update.mjs';

export { runBenchmark } from './lib/main.mjs';

export const BENCHMARKS = [
  innerLoop,
  evaluate,
  generate,
  fork,
  sparse,
  update,
  round,
  load,
  score,
  divergence,
  eventLoop,
];
