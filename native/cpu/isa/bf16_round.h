// float32 to bfloat16 and what is left over.
#pragma once
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// The nearest bfloat16, ties to even, as a float32. NaN stays NaN.
SELFEDIT_INLINE Vec<float> RoundBf16(Vec<float> x) {
  const auto bits = reinterpret_cast<BitVec<float>>(x);
  const BitVec<float> rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
  const BitVec<float> quiet = (bits | 0x00400000u) & 0xFFFF0000u;
  return reinterpret_cast<Vec<float>>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

// x - sum; 0 where the sum is not finite, so that the first term alone carries infinities and NaN.
SELFEDIT_INLINE Vec<float> LeftOver(Vec<float> x, Vec<float> sum) {
  const BitVec<float> magnitude = reinterpret_cast<BitVec<float>>(sum) & 0x7FFFFFFFu;
  return magnitude < 0x7F800000u ? x - sum : Vec<float>{};
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
