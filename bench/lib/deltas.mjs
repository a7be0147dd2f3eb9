// Random deltas that change what the model says.
import { Delta, makeError, resolveTargets } from 'selfedit';
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
 * jitter. `entries` names the same for the peer: positions in the flat matrix, and values.
 */
export function sparse(model, { density = 0.01, seed = 1 } = {}) {
  if (typeof Delta.fromParts !== 'function') {
    throw makeError(
      'OPTION_INVALID',
      'this version of selfedit makes no sparse deltas: Delta.fromParts is missing',
    );
  }
  const draw = draws(2000 + seed);
  const parts = [];
  const entries = [];
  for (const matrix of resolveTargets(model, ['all'])) {
    const { name, out, in: width } = model.matrices[matrix];
    const perRow = Math.max(1, Math.round(density * width));
    const stride = Math.floor(width / perRow);
    const rowOffsets = Int32Array.from({ length: out + 1 }, (_, row) => row * perRow);
    const columns = new Int32Array(out * perRow);
    const index = new BigInt64Array(out * perRow);
    for (let i = 0; i < columns.length; i++) {
      columns[i] = (i % perRow) * stride + (draw() % stride);
      index[i] = BigInt(Math.floor(i / perRow) * width + columns[i]);
    }
    // As large as a tenth of a dense change of the weight's own size.
    const values = normal(columns.length, 0.8 / Math.sqrt(width), draw);
    parts.push({ kind: 'sparse', matrix: name, rowOffsets, columns, values });
    entries.push({ name, index, values });
  }
  return { delta: Delta.fromParts(model, parts), entries };
}

/** Tensors NAME.index and NAME.values for the peer that scatters. */
export function scatterTensors(entries) {
  return entries.flatMap(({ name, index, values }) => [
    inPieces(`${name}.index`, 'I64', index),
    inPieces(`${name}.values`, 'F32', values),
  ]);
}

function inPieces(name, dtype, array) {
  let next = 0;
  const fill = (count) => {
    next += count;
    return array.subarray(next - count, next);
  };
  return { name, dtype, shape: [array.length], fill };
}
