// The float32 operand as bfloat16 tiles, for the variants with bfloat16 instructions.
#pragma once
#include <immintrin.h>

#include "../bf16_gemm_variants.h"
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// Rounded to the nearest even; NaN stays NaN; magnitudes below 2^-126 become 0.
SELFEDIT_INLINE __m512i RoundPair(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

typedef uint16_t Bf16Half __attribute__((vector_size(32), may_alias));

SELFEDIT_INLINE __m512 WidenBf16(const uint16_t* term) {
  const Bf16Half half = *reinterpret_cast<const Bf16Half*>(term);
  return reinterpret_cast<__m512>(__builtin_convertvector(half, BitVec<float>) << 16);
}

// x - term; 0 where the term is not finite, so that the first term alone carries infinities and NaN.
SELFEDIT_INLINE __m512 Rest(__m512 x, __m512 term) {
  constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;
  return _mm512_maskz_sub_ps(static_cast<__mmask16>(~_mm512_fpclass_ps_mask(term, kNotFinite)), x, term);
}

void PackBf16Operand(const float* x, int64_t ldx, int64_t rows, int64_t in, int terms, void* operand) {
  const int64_t steps = RoundUp(in, kBf16Step) / kBf16Step;
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = x + i * ldx;
    auto* to = static_cast<uint16_t*>(operand) + i / kBf16Rows * terms * steps * kBf16Tile +
               i % kBf16Rows * kBf16Step;
    for (int64_t s = 0; s < steps; ++s, from += kBf16Step, to += kBf16Tile) {
      const int64_t left = in - s * kBf16Step;
      __m512 low = LoadUpTo(from, left), high = left > 16 ? LoadUpTo(from + 16, left - 16) : Vec<float>{};
      uint16_t* term = to;
      for (int t = 0;; ++t, term += steps * kBf16Tile) {
        _mm512_store_si512(term, RoundPair(low, high));
        if (t + 1 == terms) break;
        low = Rest(low, WidenBf16(term));
        high = Rest(high, WidenBf16(term + 16));
      }
    }
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
