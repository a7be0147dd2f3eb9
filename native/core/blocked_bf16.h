// A bfloat16 matrix in the blocks that the processor's matrix units (AMX) read, and its product with float32
// results: nothing is rounded after the sum.
#pragma once
#include <ATen/ATen.h>

#include <vector>

namespace selfedit {

class BlockedBf16 {
 public:
  // Terms into which a float32 operand is taken apart, each a bfloat16: one rounds it, two keep 16 bits of
  // it, three all 24.
  static constexpr int kMostTerms = 3;

  // True when this machine and this shape can: y [n, out] = x [n, in] W^T.
  static bool Fits(int64_t out, int64_t in);

  BlockedBf16() = default;
  // weight: [out, in], or [in, out] when transposed.
  BlockedBf16(const at::Tensor& weight, bool transposed);
  bool defined() const { return blocks_.defined(); }
  int64_t bytes() const { return defined() ? static_cast<int64_t>(blocks_.nbytes()) : 0; }

  // x float32 [n, in], contiguous. A row's bits depend on that row alone.
  at::Tensor Product(const at::Tensor& x, int terms) const;

 private:
  int64_t out_ = 0, in_ = 0;
  at::Tensor blocks_;  // columns [64 b, 64 b + 64) of W^T at 64 b in, pairs of rows interleaved
};

}  // namespace selfedit
