import type { Delta } from '../../lib/index.js';

/** ΔW of one part, row-major [out, in], in float64. */
export function product(delta: Delta, part: number): Float64Array {
  const { matrix, rank, scale } = delta.parts[part]!;
  const { out, in: width } = delta.model.matrices[matrix]!;
  const { a, b } = delta.factors(part);
  const result = new Float64Array(out * width);
  for (let o = 0; o < out; o++) {
    for (let r = 0; r < rank; r++) {
      const factor = scale * b[o * rank + r]!;
      for (let i = 0; i < width; i++) result[o * width + i]! += factor * a[r * width + i]!;
    }
  }
  return result;
}
