// Products with a frozen bfloat16 matrix: float32 in, float32 out, nothing rounded after the sum. The matrix
// is packed once, in one layout for every instruction set. Each element of y is summed over `in` in one fixed
// order that depends on `in` and the variant only: never on m, the threads, an address or the neighbouring
// rows.
#pragma once
#include <cstdint>
#include <memory>

namespace selfedit::cpu {

// A matrix [out, in] in panels of 32 columns of W^T: [out / 32][in / 32][2][16 pairs of k][16 columns][2], so
// that a block [16][16][2] is a tile of AMX and a line of it an operand of vdpbf16ps. Zero beyond out and in.
// Copies share the memory.
class Bf16Weight {
 public:
  Bf16Weight() = default;
  // w: bit patterns [out, in], contiguous; [in, out] when transposed.
  Bf16Weight(const uint16_t* w, int64_t out, int64_t in, bool transposed);

  bool defined() const { return packed_ != nullptr; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t bytes() const;  // of the packed copy
  const uint16_t* data() const { return packed_.get(); }

 private:
  int64_t out_ = 0, in_ = 0;
  std::shared_ptr<uint16_t> packed_;
};

// How much of a float32 operand the bfloat16 matrix is multiplied with: the sum of so many bfloat16 terms,
// each the nearest to what the ones before have left over. 1: x rounded to bfloat16 (to nearest even, as ATen
// does); 2: its upper 16 bits; 3: all of it.
constexpr int kMostBf16Terms = 3;

// y[m, out] = x[m, in] W^T (+ y where accumulate), rows ldx and ldy apart. Spread over OpenMP threads. The
// variants with bfloat16 instructions take numbers below 2^-126 for 0, as the processor does.
void Bf16Product(const Bf16Weight& w, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
                 int terms = 1, bool accumulate = false);

// Name of the variant in use: "amx", "avx512bf16", "avx512", "avx2" or "portable". The best of this machine
// that SimdName() allows.
const char* Bf16SimdName();
// For tests and benchmarks: uses the named variant from now on, in every thread; null goes back to choosing.
// False, and no change, when this machine lacks it.
bool SelectBf16Simd(const char* name);

}  // namespace selfedit::cpu
