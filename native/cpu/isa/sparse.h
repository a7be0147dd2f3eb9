// Products with a sparse change D in compressed rows. Batch rows lie in the lanes of a vector: a block of
// them is turned into [in][lanes], so that every element of D is one broadcast and contiguous multiply-adds,
// whatever its column is. A lane is a batch row of its own and its sum runs in the order of D; the plain
// loops for single rows and for very sparse D run in the same order, and give the same bits.
#pragma once
#include "../scratch.h"
#include "../sparse.h"
#include "tile.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// The loops over single rows keep their registers only where they are functions of their own.
#define SELFEDIT_APART __attribute__((noinline))

// Vectors of batch rows at a time: two chains of sums each must fit into the registers.
constexpr int kSparseVectors = kVectorBytes == 64 ? 4 : 2;

SELFEDIT_INLINE int64_t Elements(const SparseMatrix& d) { return d.row_offsets[d.out] - d.row_offsets[0]; }

// Turning a row of the batch costs about as much as this many elements of D.
SELFEDIT_INLINE bool FewElements(const SparseMatrix& d) { return Elements(d) < d.in / 4; }

// Up to here a gradient is quicker row by row than in lanes that are mostly empty (measured,
// bench/sparse.cc).
constexpr int64_t kFewRows = 2;

// sum + a * b. Not left to the compiler: scalars and vectors must round alike whatever it makes of the code
// around them.
SELFEDIT_INLINE float MulAdd(float a, float b, float sum) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}
SELFEDIT_INLINE double MulAdd(double a, double b, double sum) {
#if defined(__FMA__)
  return __builtin_fma(a, b, sum);
#else
  return sum + a * b;
#endif
}
SELFEDIT_INLINE Vec<float> MulAdd(Vec<float> a, Vec<float> b, Vec<float> sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, sum);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, sum);
#else
  return sum + a * b;
#endif
}
SELFEDIT_INLINE Vec<double> MulAdd(Vec<double> a, Vec<double> b, Vec<double> sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, sum);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, sum);
#else
  return sum + a * b;
#endif
}

// Calls block<n>(first, rows) for blocks of at most n <= kSparseVectors vectors of batch rows.
template <typename T, typename Block>
SELFEDIT_INLINE void ForBlocks(int64_t m, Block block) {
  constexpr int W = kWidth<T>;
  for (int64_t t = 0; t < m; t += kSparseVectors * W) {
    const int64_t rows = Min(kSparseVectors * W, m - t);
    switch ((rows + W - 1) / W) {
      case 1:
        block(std::integral_constant<int, 1>(), t, rows);
        break;
      case 2:
        block(std::integral_constant<int, 2>(), t, rows);
        break;
      case 3:
        block(std::integral_constant < int, kSparseVectors<3 ? 1 : 3>(), t, rows);
        break;
      default:
        block(std::integral_constant<int, kSparseVectors>(), t, rows);
    }
  }
}

// to[j][at + t] += scale * from[t][j] for j < rows, t < count (at most the width): a turned square of sums.
template <typename T>
SELFEDIT_INLINE void AddTurned(const T* from, int64_t ld, T scale, int64_t rows, int64_t count, T* to,
                               int64_t stride) {
  constexpr int W = kWidth<T>;
  Vec<T> v[W];
  SELFEDIT_UNROLL
  for (int t = 0; t < W; ++t) v[t] = t < count ? Load(from + t * ld) : Vec<T>{};
  Transpose<T>(v);
  for (int64_t j = 0; j < Min(rows, W); ++j) {
    T* row = to + j * stride;
    StoreUpTo<T>(row, MulAdd(v[j], Splat(scale), LoadUpTo(row, count)), count);
  }
}

// ---- y += scale x D^T

// Keeps the compiler from pairing two scalar sums in one vector, whose lanes it would have to collect one by
// one.
template <typename T>
SELFEDIT_INLINE void Apart(T& value) {
#if defined(__x86_64__)
  asm("" : "+x"(value));
#else
  (void)value;
#endif
}

// The even and the odd elements of a row of D are summed apart: two chains hide half the latency of an
// addition.
template <typename T>
SELFEDIT_INLINE T SparseDot(const int32_t* columns, const T* values, int64_t count, const T* x) {
  T even = 0, odd = 0;
  int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    even = MulAdd(values[k], x[columns[k]], even);
    Apart(even);
    odd = MulAdd(values[k + 1], x[columns[k + 1]], odd);
  }
  if (k < count) even = MulAdd(values[k], x[columns[k]], even);
  return even + odd;
}

template <typename T>
SELFEDIT_APART void SparseForwardRow(const SparseMatrix& d, const T* values, T scale, const T* x, T* y) {
  constexpr int W = kWidth<T>;
  for (int64_t i = 0; i < d.out; i += W) {
    const int64_t count = Min(W, d.out - i);
    if (d.row_offsets[i] == d.row_offsets[i + count]) continue;
    alignas(64) T sums[W] = {};
    for (int64_t r = 0; r < count; ++r) {
      const int64_t begin = d.row_offsets[i + r], end = d.row_offsets[i + r + 1];
      sums[r] = SparseDot(d.columns + begin, values + begin, end - begin, x);
    }
    StoreUpTo<T>(y + i, MulAdd(Load(sums), Splat(scale), LoadUpTo(y + i, count)), count);
  }
}

template <typename T, int N>
void SparseForwardBlock(const SparseMatrix& d, const T* values, T scale, const T* x, int64_t rows, T* y) {
  constexpr int W = kWidth<T>;
  constexpr int64_t ld = N * W;
  T* turned = static_cast<T*>(Scratch(d.in * ld * sizeof(T)));
  PackTransposed(x, d.in, rows, d.in, turned, ld);
  alignas(64) T sums[W * ld];
  for (int64_t i = 0; i < d.out; i += W) {
    const int64_t count = Min(W, d.out - i);
    if (d.row_offsets[i] == d.row_offsets[i + count]) continue;
    for (int64_t r = 0; r < count; ++r) {
      Vec<T> even[N] = {}, odd[N] = {};
      int64_t k = d.row_offsets[i + r];
      const int64_t end = d.row_offsets[i + r + 1];
      for (; k + 2 <= end; k += 2) {
        const T *a = turned + d.columns[k] * ld, *b = turned + d.columns[k + 1] * ld;
        const Vec<T> p = Splat(values[k]), q = Splat(values[k + 1]);
        SELFEDIT_UNROLL
        for (int v = 0; v < N; ++v) even[v] = MulAdd(p, Load(a + v * W), even[v]);
        SELFEDIT_UNROLL
        for (int v = 0; v < N; ++v) odd[v] = MulAdd(q, Load(b + v * W), odd[v]);
      }
      if (k < end) {
        const T* a = turned + d.columns[k] * ld;
        const Vec<T> p = Splat(values[k]);
        SELFEDIT_UNROLL
        for (int v = 0; v < N; ++v) even[v] = MulAdd(p, Load(a + v * W), even[v]);
      }
      SELFEDIT_UNROLL
      for (int v = 0; v < N; ++v) Store(sums + r * ld + v * W, even[v] + odd[v]);
    }
    for (int v = 0; v < N; ++v) {
      AddTurned(sums + v * W, ld, scale, rows - v * W, count, y + v * W * d.out + i, d.out);
    }
  }
}

template <typename T>
void SparseForward(const SparseMatrix& d, const T* values, T scale, const T* x, int64_t m, T* y) {
  if (Elements(d) == 0) return;
  if (m == 1 || FewElements(d)) {
    for (int64_t t = 0; t < m; ++t) SparseForwardRow(d, values, scale, x + t * d.in, y + t * d.out);
    return;
  }
  ForBlocks<T>(m, [&](auto n, int64_t t, int64_t rows) {
    SparseForwardBlock<T, decltype(n)::value>(d, values, scale, x + t * d.in, rows, y + t * d.out);
  });
}

// ---- dx += scale dy D

template <typename T>
SELFEDIT_APART void SparseBackwardInputRow(const SparseMatrix& d, const T* values, T scale, const T* dy,
                                           T* dx) {
  constexpr int W = kWidth<T>;
  T* sums = static_cast<T*>(Scratch(d.in * sizeof(T)));
  for (int64_t c = 0; c < d.in; c += W) StoreUpTo<T>(sums + c, Vec<T>{}, d.in - c);
  for (int64_t i = 0; i < d.out; ++i) {
    const T g = dy[i];
    for (int64_t k = d.row_offsets[i]; k < d.row_offsets[i + 1]; ++k) {
      T* to = sums + d.columns[k];
      *to = MulAdd(g, values[k], *to);
    }
  }
  for (int64_t c = 0; c < d.in; c += W) {
    StoreUpTo<T>(dx + c, MulAdd(LoadUpTo(sums + c, d.in - c), Splat(scale), LoadUpTo(dx + c, d.in - c)),
                 d.in - c);
  }
}

template <typename T, int N>
void SparseBackwardInputBlock(const SparseMatrix& d, const T* values, T scale, const T* dy, int64_t rows,
                              T* dx) {
  constexpr int W = kWidth<T>;
  constexpr int64_t ld = N * W;
  T* sums = static_cast<T*>(Scratch(d.in * ld * sizeof(T)));
  for (int64_t j = 0; j < d.in * ld; j += W) Store(sums + j, Vec<T>{});
  alignas(64) T turned[W * ld];
  for (int64_t i = 0; i < d.out; i += W) {
    const int64_t count = Min(W, d.out - i);
    if (d.row_offsets[i] == d.row_offsets[i + count]) continue;
    PackTransposed(dy + i, d.out, rows, count, turned, ld);
    for (int64_t r = 0; r < count; ++r) {
      Vec<T> g[N];
      SELFEDIT_UNROLL
      for (int v = 0; v < N; ++v) g[v] = Load(turned + r * ld + v * W);
      for (int64_t k = d.row_offsets[i + r]; k < d.row_offsets[i + r + 1]; ++k) {
        T* to = sums + d.columns[k] * ld;
        const Vec<T> p = Splat(values[k]);
        SELFEDIT_UNROLL
        for (int v = 0; v < N; ++v) Store(to + v * W, MulAdd(g[v], p, Load(to + v * W)));
      }
    }
  }
  for (int64_t c = 0; c < d.in; c += W) {
    for (int v = 0; v < N; ++v) {
      AddTurned(sums + c * ld + v * W, ld, scale, rows - v * W, Min(W, d.in - c), dx + v * W * d.in + c,
                d.in);
    }
  }
}

template <typename T>
void SparseBackwardInput(const SparseMatrix& d, const T* values, T scale, const T* dy, int64_t m, T* dx) {
  if (Elements(d) == 0) return;
  if (m <= kFewRows || FewElements(d)) {
    for (int64_t t = 0; t < m; ++t) SparseBackwardInputRow(d, values, scale, dy + t * d.out, dx + t * d.in);
    return;
  }
  ForBlocks<T>(m, [&](auto n, int64_t t, int64_t rows) {
    SparseBackwardInputBlock<T, decltype(n)::value>(d, values, scale, dy + t * d.out, rows, dx + t * d.in);
  });
}

// ---- dvalues += scale (dy^T x at the elements of D)

// Sums of the lanes of W vectors at once: after each stage half as many vectors hold what the lanes have to
// sum.
template <typename T, int s, size_t... t>
SELFEDIT_INLINE void SumLanesStage(Vec<T>* r, std::index_sequence<t...>) {
  constexpr int W = kWidth<T>;
  SELFEDIT_UNROLL
  for (int i = 0; i < s; ++i) {
    // Lane t of the result adds pairs of r[i] where bit s of t is 0, of r[i + s] where it is 1.
    const Vec<T> a = r[i], b = r[i + s];
    r[i] = __builtin_shufflevector(a, b, ((t & s) ? W + t - s : t)...) +
           __builtin_shufflevector(a, b, ((t & s) ? W + t : t + s)...);
  }
}
template <typename T, int s = kWidth<T> / 2>
SELFEDIT_INLINE void SumLanes(Vec<T>* r) {
  SumLanesStage<T, s>(r, std::make_index_sequence<kWidth<T>>());
  if constexpr (s > 1) SumLanes<T, s / 2>(r);
}

template <typename T, int N>
void SparseBackwardValuesBlock(const SparseMatrix& d, T scale, const T* x, const T* dy, int64_t rows,
                               T* dvalues) {
  constexpr int W = kWidth<T>;
  constexpr int64_t ld = N * W;
  T* turned = static_cast<T*>(Scratch(d.in * ld * sizeof(T)));
  PackTransposed(x, d.in, rows, d.in, turned, ld);
  alignas(64) T turned_dy[W * ld], products[W * W];
  // Elements are finished W at a time, across rows of D.
  int64_t first = d.row_offsets[0], filled = 0;
  const auto finish = [&] {
    Vec<T> v[W];
    SELFEDIT_UNROLL
    for (int t = 0; t < W; ++t) v[t] = Load(products + t * W);
    SumLanes<T>(v);
    StoreUpTo<T>(dvalues + first, MulAdd(v[0], Splat(scale), LoadUpTo(dvalues + first, filled)), filled);
    first += filled;
    filled = 0;
  };
  for (int t = 0; t < W; ++t) Store(products + t * W, Vec<T>{});
  for (int64_t i = 0; i < d.out; i += W) {
    const int64_t count = Min(W, d.out - i);
    if (d.row_offsets[i] == d.row_offsets[i + count]) continue;
    PackTransposed(dy + i, d.out, rows, count, turned_dy, ld);
    for (int64_t r = 0; r < count; ++r) {
      Vec<T> g[N];
      SELFEDIT_UNROLL
      for (int v = 0; v < N; ++v) g[v] = Load(turned_dy + r * ld + v * W);
      for (int64_t k = d.row_offsets[i + r]; k < d.row_offsets[i + r + 1]; ++k) {
        const T* a = turned + d.columns[k] * ld;
        Vec<T> product = g[0] * Load(a);
        SELFEDIT_UNROLL
        for (int v = 1; v < N; ++v) product = MulAdd(g[v], Load(a + v * W), product);
        Store(products + filled * W, product);
        if (++filled == W) finish();
      }
    }
  }
  if (filled > 0) finish();
}

template <typename T>
SELFEDIT_APART void SparseBackwardValuesRow(const SparseMatrix& d, T scale, const T* x, const T* dy,
                                            T* dvalues) {
  for (int64_t i = 0; i < d.out; ++i) {
    const T g = dy[i];
    for (int64_t k = d.row_offsets[i]; k < d.row_offsets[i + 1]; ++k) {
      const T product = g * x[d.columns[k]];
      dvalues[k] = MulAdd(product, scale, dvalues[k]);
    }
  }
}

template <typename T>
void SparseBackwardValues(const SparseMatrix& d, T scale, const T* x, const T* dy, int64_t m, T* dvalues) {
  if (Elements(d) == 0) return;
  if (m <= kFewRows || FewElements(d)) {
    for (int64_t t = 0; t < m; ++t) SparseBackwardValuesRow(d, scale, x + t * d.in, dy + t * d.out, dvalues);
    return;
  }
  ForBlocks<T>(m, [&](auto n, int64_t t, int64_t rows) {
    SparseBackwardValuesBlock<T, decltype(n)::value>(d, scale, x + t * d.in, dy + t * d.out, rows, dvalues);
  });
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
