// Philox4x32-10 (native/core/philox.h) for many lanes at once, and Gumbel noise made of it.
#pragma once
#include "math.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

typedef uint64_t Word __attribute__((vector_size(kVectorBytes)));
typedef uint32_t HalfWord __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / 8;

// Low 32 bits of every 64-bit lane times a 32-bit constant.
SELFEDIT_INLINE Word Multiply(Word a, uint32_t factor) {
#if defined(__AVX512F__)
  // The form with a mask, because GCC 12 warns about its own header in the plain one.
  return (Word)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
  return (Word)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
  return (Word)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(factor));
#else
  return (a & 0xffffffffu) * static_cast<uint64_t>(factor);
#endif
}

template <size_t... t>
SELFEDIT_INLINE Word LaneIota(uint64_t first, std::index_sequence<t...>) {
  return Word{(first + t)...};
}
template <size_t... t>
SELFEDIT_INLINE Word InterleaveLow(Word a, Word b, std::index_sequence<t...>) {
  return __builtin_shufflevector(a, b, (t / 2 + t % 2 * kLanes)...);
}
template <size_t... t>
SELFEDIT_INLINE Word InterleaveHigh(Word a, Word b, std::index_sequence<t...>) {
  return __builtin_shufflevector(a, b, (kLanes / 2 + t / 2 + t % 2 * kLanes)...);
}

// Words v[0..3] of Philox lanes first, first + 1, ..., first + kLanes - 1, in order: two vectors of 32-bit
// words. The 32-bit words live in 64-bit lanes, whose high halves hold garbage except where a shift clears
// them.
SELFEDIT_INLINE void PhiloxLanes(uint64_t key, uint64_t position, uint64_t first, HalfWord* out) {
  const auto lanes = std::make_index_sequence<kLanes>();
  Word c0 = position - Word{}, c1 = (position >> 32) - Word{};
  Word c2 = LaneIota(first, lanes), c3 = c2 >> 32;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  SELFEDIT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const Word p0 = Multiply(c0, 0xD2511F53u), p1 = Multiply(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ static_cast<uint64_t>(k0);
    c2 = (p0 >> 32) ^ c3 ^ static_cast<uint64_t>(k1);
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Word a = (c0 & 0xffffffffu) | (c1 << 32), b = (c2 & 0xffffffffu) | (c3 << 32);
  out[0] = (HalfWord)InterleaveLow(a, b, lanes);
  out[1] = (HalfWord)InterleaveHigh(a, b, lanes);
}

// The uniform v of kernels.h, and the Gumbel noise -log(-log(1 - v)); small v is large noise.
SELFEDIT_INLINE Vec<float> Uniform(HalfWord bits) {
  const Vec<float> v = __builtin_convertvector(bits, Vec<float>) * 0x1p-32f + 0x1p-33f;
  return v < 1 - 0x1p-24f ? v : Splat(1 - 0x1p-24f);
}
SELFEDIT_INLINE Vec<float> Gumbel(Vec<float> v) { return -Log(-LogOneMinus(v)); }

// v of tokens [4 lane, 4 lane + count), count a multiple of 4 kLanes. Returns the smallest.
SELFEDIT_INLINE float Uniforms(uint64_t key, uint64_t position, uint64_t lane, int64_t count, float* out) {
  Vec<float> most = Splat(-1.0f);
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
    HalfWord bits[2];
    PhiloxLanes(key, position, lane + i / 4, bits);
    const Vec<float> a = Uniform(bits[0]), b = Uniform(bits[1]);
    Store(out + i, a);
    Store(out + i + 2 * kLanes, b);
    most = MaxOf<float>(most, MaxOf<float>(-a, -b));
  }
  return -ReduceMax<float>(most);
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
