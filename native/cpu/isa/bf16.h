// float32 as a sum of bfloat16 numbers.
#pragma once
#include "../kernels.h"
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t UnalignedHalfBits __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

// The upper half of the nearest even bfloat16's float32. NaN stays NaN.
SELFEDIT_INLINE BitVec<float> RoundBits(BitVec<float> bits) {
  const BitVec<float> rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits | 0x00400000u) & 0xFFFF0000u : rounded;
}

void SplitBf16(const float* x, int64_t ldx, int64_t rows, int64_t padded, int64_t c, int terms,
               uint16_t* to) {
  constexpr int W = kWidth<float>;
  for (int64_t i = 0; i < padded; ++i) {
    for (int64_t j = 0; j < c; j += W) {
      const int64_t count = Min(W, c - j);
      Vec<float> rest = i < rows ? LoadUpTo(x + i * ldx + j, count) : Vec<float>{};
      for (int t = 0; t < terms; ++t) {
        const BitVec<float> bits = RoundBits(reinterpret_cast<BitVec<float>>(rest));
        const HalfBits half = __builtin_convertvector(bits >> 16, HalfBits);
        uint16_t* out = to + (t * padded + i) * c + j;
        if (count == W) {
          *reinterpret_cast<UnalignedHalfBits*>(out) = half;
        } else {
          for (int64_t l = 0; l < count; ++l) out[l] = half[l];
        }
        rest -= reinterpret_cast<Vec<float>>(bits);
      }
    }
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
