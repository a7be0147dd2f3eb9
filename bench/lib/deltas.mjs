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

/**
 * Sparse on every matrix of every layer: of each row the share `density` of its entries, evenly spread with keyed
 * jitter. Also returns its parts.
 */
export function sparse(model, { density = 0.01, seed = 1 } = {}) {
  const draw = draws(2000 + seed);
  const parts = Array.from(resolveTargets(model, ['all']), (matrix) => {
    const { name, out, in: width } = model.matrices[matrix];
    const perRow = Math.max(1, Math.round(density * width));
    const stride = Math.floor(width / perRow);
    const rowOffsets = Int32Array.from({ length: out + 1 }, (_, row) => row * perRow);
    const columns = new Int32Array(out * perRow);
    for (let i = 0; i < columns.length; i++) columns[i] = (i % perRow) * stride + (draw() % stride);
    // As large as the weights: at 1 % of the entries a tenth of the matrix's norm.
    const values = normal(columns.length, 0.8 / Math.sqrt(width), draw);
    return { kind: 'sparse', matrix: name, width, rowOffsets, columns, values };
  });
  return { delta: Delta.fromParts(model, parts), parts };
}

/** Tensors NAME.index (positions in the flat matrix) and NAME.values, for the peer that scatters. */
export function scatterTensors(parts) {
  return parts.flatMap(({ matrix, width, rowOffsets, columns, values }) => {
    const index = new BigInt64Array(columns.length);
    for (let row = 0; row + 1 < rowOffsets.length; row++) {
      for (let i = rowOffsets[row]; i < rowOffsets[row + 1]; i++) index[i] = BigInt(row * width + columns[i]);
    }
    return [inPieces(`${matrix}.index`, 'I64', index), inPieces(`${matrix}.values`, 'F32', values)];
  });
}

function inPieces(name, dtype, array) {
  let next = 0;
  const fill = (count) => {
    next += count;
    return array.subarray(next - count, next);
  };
  return { name, dtype, shape: [array.length], fill };
}
