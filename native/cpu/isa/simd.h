// Vectors of the instruction set that this translation unit is compiled for, on the compiler's vector
// extensions.
//
// Everything under isa/ is compiled several times with different -march flags. It therefore lives in a
// namespace named by SELFEDIT_ISA, has internal linkage, and uses no inline function of other headers (the
// linker would keep one copy of it, perhaps the one with instructions that this machine lacks).
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>  // index_sequence: a type only
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#define SELFEDIT_INLINE inline __attribute__((always_inline))
#define SELFEDIT_UNROLL _Pragma("GCC unroll 16")

template <typename T>
struct Simd;
template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t U __attribute__((vector_size(kVectorBytes)));
  using Int = int32_t;
  static constexpr int W = kVectorBytes / 4;
};
template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t U __attribute__((vector_size(kVectorBytes)));
  using Int = int64_t;
  static constexpr int W = kVectorBytes / 8;
};
template <typename T>
using Vec = typename Simd<T>::V;
template <typename T>
using IntVec = typename Simd<T>::I;
template <typename T>
using BitVec = typename Simd<T>::U;
template <typename T>
constexpr int kWidth = Simd<T>::W;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
SELFEDIT_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
SELFEDIT_INLINE int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T>
SELFEDIT_INLINE Vec<T> Splat(T value) {
  return value - Vec<T>{};
}

template <typename T>
SELFEDIT_INLINE Vec<T> Load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <typename T>
SELFEDIT_INLINE void Store(T* p, Vec<T> value) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = value;
}

// The first `count` lanes (fewer than the width), the others 0; nothing beyond them is touched.
template <typename T>
SELFEDIT_INLINE Vec<T> LoadPart(const T* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
  } else {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
  }
#else
  Vec<T> value{};
  for (int64_t t = 0; t < count; ++t) value[t] = p[t];
  return value;
#endif
}

template <typename T>
SELFEDIT_INLINE void StorePart(T* p, Vec<T> value, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), value);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), value);
  }
#else
  for (int64_t t = 0; t < count; ++t) p[t] = value[t];
#endif
}

// Lanes [0, remaining) of p, at most a whole vector.
template <typename T>
SELFEDIT_INLINE Vec<T> LoadUpTo(const T* p, int64_t remaining) {
  return remaining >= kWidth<T> ? Load(p) : LoadPart(p, remaining);
}

template <typename T>
SELFEDIT_INLINE void StoreUpTo(T* p, Vec<T> value, int64_t remaining) {
  if (remaining >= kWidth<T>) {
    Store(p, value);
  } else {
    StorePart(p, value, remaining);
  }
}

template <typename T, size_t... t>
SELFEDIT_INLINE IntVec<T> IotaOf(std::index_sequence<t...>) {
  return IntVec<T>{static_cast<typename Simd<T>::Int>(t)...};
}
// 0, 1, 2, ...
template <typename T>
SELFEDIT_INLINE IntVec<T> Iota() {
  return IotaOf<T>(std::make_index_sequence<kWidth<T>>());
}

template <typename T>
SELFEDIT_INLINE Vec<T> MaxOf(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

// Lane t reads lane t ^ s.
template <typename T, int s, size_t... t>
SELFEDIT_INLINE Vec<T> SwapOf(Vec<T> v, std::index_sequence<t...>) {
  return __builtin_shufflevector(v, v, (t ^ s)...);
}
template <typename T, int s>
SELFEDIT_INLINE Vec<T> Swap(Vec<T> v) {
  return SwapOf<T, s>(v, std::make_index_sequence<kWidth<T>>());
}

template <typename T, int s = kWidth<T> / 2>
SELFEDIT_INLINE T ReduceSum(Vec<T> v) {
  if constexpr (s == 0) {
    return v[0];
  } else {
    return ReduceSum<T, s / 2>(v + Swap<T, s>(v));
  }
}

template <typename T, int s = kWidth<T> / 2>
SELFEDIT_INLINE T ReduceMax(Vec<T> v) {
  if constexpr (s == 0) {
    return v[0];
  } else {
    return ReduceMax<T, s / 2>(MaxOf<T>(v, Swap<T, s>(v)));
  }
}

// Adds vectors of T lane by lane in double.
template <typename T>
struct WideSum;
template <>
struct WideSum<double> {
  Vec<double> sum{};
  SELFEDIT_INLINE void Add(Vec<double> v) { sum += v; }
  SELFEDIT_INLINE double Total() const { return ReduceSum<double>(sum); }
};
template <>
struct WideSum<float> {
  Vec<double> low{}, high{};
  template <size_t... t>
  SELFEDIT_INLINE void AddOf(Vec<float> v, std::index_sequence<t...>) {
    constexpr int half = kWidth<float> / 2;
    low += __builtin_convertvector(__builtin_shufflevector(v, v, t...), Vec<double>);
    high += __builtin_convertvector(__builtin_shufflevector(v, v, (t + half)...), Vec<double>);
  }
  SELFEDIT_INLINE void Add(Vec<float> v) { AddOf(v, std::make_index_sequence<kWidth<float> / 2>()); }
  SELFEDIT_INLINE double Total() const { return ReduceSum<double>(low + high); }
};

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
