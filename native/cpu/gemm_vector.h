// One vector register of T for the instruction set this file is compiled for, in a namespace of its own, so
// that the same algorithm can be compiled several times into one library. Include it only from gemm_<set>.cc.
// Nothing of the standard library may be called here: an inline function compiled for AVX-512 could be the
// copy that the linker keeps.
#pragma once
#include <cstdint>

#if defined(__AVX512F__)
#define SELFEDIT_GEMM_SET avx512
#define SELFEDIT_GEMM_NAME "avx512"
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define SELFEDIT_GEMM_SET avx2
#define SELFEDIT_GEMM_NAME "avx2"
#include <immintrin.h>
#else
#define SELFEDIT_GEMM_SET portable
#define SELFEDIT_GEMM_NAME "portable"
#endif

namespace selfedit::cpu::SELFEDIT_GEMM_SET {

// Vector<T>: Type, kLanes; loads and stores of all or the first `count` lanes (the others read as zero and
// are not touched); Fma(a, b, c) = a b + c; Sum4 writes the lane sums of four vectors, each in the same fixed
// order; Transpose exchanges lanes and vectors of a kLanes x kLanes square.
template <typename T>
struct Vector;

#if defined(__AVX512F__)

constexpr int kRegisters = 32;

// The same rounding as the vectors, for one number.
inline float Fma(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
inline double Fma(double a, double b, double c) {
  return _mm_cvtsd_f64(_mm_fmadd_sd(_mm_set_sd(a), _mm_set_sd(b), _mm_set_sd(c)));
}

template <>
struct Vector<float> {
  using Type = __m512;
  static constexpr int kLanes = 16;
  static __mmask16 Mask(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Type Zero() { return _mm512_setzero_ps(); }
  static Type Set(float x) { return _mm512_set1_ps(x); }
  static Type Load(const float* p) { return _mm512_loadu_ps(p); }
  static Type Load(const float* p, int count) { return _mm512_maskz_loadu_ps(Mask(count), p); }
  static void Store(float* p, Type x) { _mm512_storeu_ps(p, x); }
  static void Store(float* p, Type x, int count) { _mm512_mask_storeu_ps(p, Mask(count), x); }
  static Type Mul(Type a, Type b) { return _mm512_mul_ps(a, b); }
  static Type Fma(Type a, Type b, Type c) { return _mm512_fmadd_ps(a, b, c); }
  static void Sum4(Type a, Type b, Type c, Type d, float* out) {
    const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    const __m512 s = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(s), 1));
    const __m256 t = _mm256_add_ps(_mm512_castps512_ps256(s), high);
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1)));
  }
  static void Transpose(Type* v) {
    Type u[16];
    for (int i = 0; i < 16; i += 4) {
      const __m512d t0 = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
      const __m512d t1 = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
      const __m512d t2 = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
      const __m512d t3 = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
      u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(t0, t2));
      u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t2));
      u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t1, t3));
      u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t1, t3));
    }
    for (int i = 0; i < 4; ++i) {
      const __m512 x0 = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
      const __m512 x1 = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
      const __m512 y0 = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
      const __m512 y1 = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
      v[i] = _mm512_shuffle_f32x4(x0, y0, 0x88);
      v[i + 4] = _mm512_shuffle_f32x4(x1, y1, 0x88);
      v[i + 8] = _mm512_shuffle_f32x4(x0, y0, 0xdd);
      v[i + 12] = _mm512_shuffle_f32x4(x1, y1, 0xdd);
    }
  }
};

template <>
struct Vector<double> {
  using Type = __m512d;
  static constexpr int kLanes = 8;
  static __mmask8 Mask(int count) { return static_cast<__mmask8>((1u << count) - 1); }
  static Type Zero() { return _mm512_setzero_pd(); }
  static Type Set(double x) { return _mm512_set1_pd(x); }
  static Type Load(const double* p) { return _mm512_loadu_pd(p); }
  static Type Load(const double* p, int count) { return _mm512_maskz_loadu_pd(Mask(count), p); }
  static void Store(double* p, Type x) { _mm512_storeu_pd(p, x); }
  static void Store(double* p, Type x, int count) { _mm512_mask_storeu_pd(p, Mask(count), x); }
  static Type Mul(Type a, Type b) { return _mm512_mul_pd(a, b); }
  static Type Fma(Type a, Type b, Type c) { return _mm512_fmadd_pd(a, b, c); }
  static void Sum4(Type a, Type b, Type c, Type d, double* out) {
    const __m512d ab = _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
    const __m512d cd = _mm512_add_pd(_mm512_unpacklo_pd(c, d), _mm512_unpackhi_pd(c, d));
    const __m256d x = _mm256_add_pd(_mm512_castpd512_pd256(ab), _mm512_extractf64x4_pd(ab, 1));
    const __m256d y = _mm256_add_pd(_mm512_castpd512_pd256(cd), _mm512_extractf64x4_pd(cd, 1));
    _mm256_storeu_pd(out,
                     _mm256_add_pd(_mm256_permute2f128_pd(x, y, 0x20), _mm256_permute2f128_pd(x, y, 0x31)));
  }
  static void Transpose(Type* v) {
    Type u[8];
    for (int i = 0; i < 8; i += 2) {
      u[i] = _mm512_unpacklo_pd(v[i], v[i + 1]);
      u[i + 1] = _mm512_unpackhi_pd(v[i], v[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      const __m512d x0 = _mm512_shuffle_f64x2(u[i], u[i + 2], 0x88);
      const __m512d x1 = _mm512_shuffle_f64x2(u[i], u[i + 2], 0xdd);
      const __m512d y0 = _mm512_shuffle_f64x2(u[i + 4], u[i + 6], 0x88);
      const __m512d y1 = _mm512_shuffle_f64x2(u[i + 4], u[i + 6], 0xdd);
      v[i] = _mm512_shuffle_f64x2(x0, y0, 0x88);
      v[i + 2] = _mm512_shuffle_f64x2(x1, y1, 0x88);
      v[i + 4] = _mm512_shuffle_f64x2(x0, y0, 0xdd);
      v[i + 6] = _mm512_shuffle_f64x2(x1, y1, 0xdd);
    }
  }
};

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kRegisters = 16;

inline float Fma(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
inline double Fma(double a, double b, double c) {
  return _mm_cvtsd_f64(_mm_fmadd_sd(_mm_set_sd(a), _mm_set_sd(b), _mm_set_sd(c)));
}

template <>
struct Vector<float> {
  using Type = __m256;
  static constexpr int kLanes = 8;
  static __m256i Mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Type Zero() { return _mm256_setzero_ps(); }
  static Type Set(float x) { return _mm256_set1_ps(x); }
  static Type Load(const float* p) { return _mm256_loadu_ps(p); }
  static Type Load(const float* p, int count) { return _mm256_maskload_ps(p, Mask(count)); }
  static void Store(float* p, Type x) { _mm256_storeu_ps(p, x); }
  static void Store(float* p, Type x, int count) { _mm256_maskstore_ps(p, Mask(count), x); }
  static Type Mul(Type a, Type b) { return _mm256_mul_ps(a, b); }
  static Type Fma(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static void Sum4(Type a, Type b, Type c, Type d, float* out) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
  }
  static void Transpose(Type* v) {
    Type u[8];
    for (int i = 0; i < 8; i += 4) {
      const __m256d t0 = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));
      const __m256d t1 = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));
      const __m256d t2 = _mm256_castps_pd(_mm256_unpacklo_ps(v[i + 2], v[i + 3]));
      const __m256d t3 = _mm256_castps_pd(_mm256_unpackhi_ps(v[i + 2], v[i + 3]));
      u[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(t0, t2));
      u[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t0, t2));
      u[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(t1, t3));
      u[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(t1, t3));
    }
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
  }
};

template <>
struct Vector<double> {
  using Type = __m256d;
  static constexpr int kLanes = 4;
  static __m256i Mask(int count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static Type Zero() { return _mm256_setzero_pd(); }
  static Type Set(double x) { return _mm256_set1_pd(x); }
  static Type Load(const double* p) { return _mm256_loadu_pd(p); }
  static Type Load(const double* p, int count) { return _mm256_maskload_pd(p, Mask(count)); }
  static void Store(double* p, Type x) { _mm256_storeu_pd(p, x); }
  static void Store(double* p, Type x, int count) { _mm256_maskstore_pd(p, Mask(count), x); }
  static Type Mul(Type a, Type b) { return _mm256_mul_pd(a, b); }
  static Type Fma(Type a, Type b, Type c) { return _mm256_fmadd_pd(a, b, c); }
  static void Sum4(Type a, Type b, Type c, Type d, double* out) {
    const __m256d x = _mm256_hadd_pd(a, b), y = _mm256_hadd_pd(c, d);
    _mm256_storeu_pd(out,
                     _mm256_add_pd(_mm256_permute2f128_pd(x, y, 0x20), _mm256_permute2f128_pd(x, y, 0x31)));
  }
  static void Transpose(Type* v) {
    const __m256d t0 = _mm256_unpacklo_pd(v[0], v[1]), t1 = _mm256_unpackhi_pd(v[0], v[1]);
    const __m256d t2 = _mm256_unpacklo_pd(v[2], v[3]), t3 = _mm256_unpackhi_pd(v[2], v[3]);
    v[0] = _mm256_permute2f128_pd(t0, t2, 0x20);
    v[1] = _mm256_permute2f128_pd(t1, t3, 0x20);
    v[2] = _mm256_permute2f128_pd(t0, t2, 0x31);
    v[3] = _mm256_permute2f128_pd(t1, t3, 0x31);
  }
};

#else

constexpr int kRegisters = 16;

template <typename T>
inline T Fma(T a, T b, T c) {
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
  return sizeof(T) == sizeof(float) ? static_cast<T>(__builtin_fmaf(a, b, c))
                                    : static_cast<T>(__builtin_fma(a, b, c));
#else
  return a * b + c;
#endif
}

// 16 bytes with the compiler's own vectors (SSE2, NEON); a plain number where it has none. Where a b + c is
// one instruction every product below becomes one, where it is two every product is two: the rows agree
// either way.
template <typename T>
struct Vector {
#if defined(__GNUC__)
  using Type [[gnu::vector_size(16)]] = T;
  using Unaligned [[gnu::vector_size(16), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;
  static constexpr int kLanes = 16 / sizeof(T);
  static T& Lane(Type& x, int i) { return reinterpret_cast<T*>(&x)[i]; }
#else
  using Type = T;
  using Unaligned = T;
  static constexpr int kLanes = 1;
  static T& Lane(Type& x, int) { return x; }
#endif
  static Type Zero() { return Type{}; }
  static Type Set(T x) { return Type{} + x; }
  static Type Load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static Type Load(const T* p, int count) {
    Type x{};
    for (int i = 0; i < count; ++i) Lane(x, i) = p[i];
    return x;
  }
  static void Store(T* p, Type x) { *reinterpret_cast<Unaligned*>(p) = x; }
  static void Store(T* p, Type x, int count) {
    for (int i = 0; i < count; ++i) p[i] = Lane(x, i);
  }
  static Type Mul(Type a, Type b) { return a * b; }
  static Type Fma(Type a, Type b, Type c) { return a * b + c; }
  static void Sum4(Type a, Type b, Type c, Type d, T* out) {
    Type v[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
      T sum = Lane(v[i], 0);
      for (int j = 1; j < kLanes; ++j) sum += Lane(v[i], j);
      out[i] = sum;
    }
  }
  static void Transpose(Type* v) {
    for (int i = 0; i < kLanes; ++i) {
      for (int j = 0; j < i; ++j) {
        const T x = Lane(v[i], j);
        Lane(v[i], j) = Lane(v[j], i);
        Lane(v[j], i) = x;
      }
    }
  }
};

#endif

}  // namespace selfedit::cpu::SELFEDIT_GEMM_SET
