// Products with a frozen float32 matrix on bfloat16 matrix units, as exact as a float32 product: both
// operands are cut into three bfloat16 terms that add up to them exactly, x = x1 + x2 + x3, and the six
// products of terms that reach 2^-24 of the largest are summed in float32. A matrix is packed once, in
// float32; its terms are made on the way. Each element of y is summed in one fixed order that depends on `in`
// and the variant only: never on m, the threads, an address or the neighbouring rows.
#pragma once
#include <cstdint>
#include <memory>

namespace selfedit::cpu {

// A matrix [out, in] in panels of 32 columns of W^T: [out / 32][in / 32][32 of k][32 columns], zero beyond
// out and in. Copies share the memory.
class F32Weight {
 public:
  F32Weight() = default;
  // w: [out, in], contiguous; [in, out] when transposed.
  F32Weight(const float* w, int64_t out, int64_t in, bool transposed);

  bool defined() const { return packed_ != nullptr; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t bytes() const;  // of the packed copy
  const float* data() const { return packed_.get(); }

 private:
  int64_t out_ = 0, in_ = 0;
  std::shared_ptr<float> packed_;
};

// y[m, out] = x[m, in] W^T (+ y where accumulate), rows ldx and ldy apart. Spread over OpenMP threads. Matrix
// units take numbers below 2^-126 for 0, so terms smaller than that are lost. A row of x with a number that
// is not finite, or within 2^-9 of the largest, gives a row of y that is not finite.
void F32Product(const F32Weight& w, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
                bool accumulate = false);

// Whether this machine has a variant that is quicker than a product in float32 (see F32SimdName: "amx").
bool F32ProductPays();
// Name of the variant in use: "amx" or "portable", which is there to compare with.
const char* F32SimdName();
// For tests and benchmarks: as SelectBf16Simd.
bool SelectF32Simd(const char* name);

}  // namespace selfedit::cpu
