// Random deltas that change what the model says.
import { Delta, resolveTargets } from 'selfedit';
import { draws, normal } from './random.mjs';

/** Low-rank on q and v, both factors filled. */
export function lowRank(model, { rank = 32, targets = ['q_proj', 'v_proj'], seed = 1 } = {}) {
  const draw = draws(1000 + seed);
  const parts = Array.from(resolveTargets(model, targets), (matrix) => {
    const { out, in: width } = model.matrices[matrix];
    const deviation = 0.3 / Math.sqrt(rank * width);
    return {
      matrix,
      rank,
      scale: 2,
      a: normal(rank * width, 1, draw),
      b: normal(out * rank, deviation, draw),
    };
  });
  return Delta.fromFactors(model, parts);
}
