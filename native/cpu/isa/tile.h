// Register-blocked products of small row-major matrices, and the packing they need.
#pragma once
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;  // 6 x 4 of 32 registers, 6 x 2 of 16

// Left operands: element (m, k) of a tile.
template <typename T>
struct ByRows {  // row m starts at p[m]
  const T* const* p;
  int64_t first;  // column of k == 0
};
template <typename T>
struct ByColumns {  // column k starts at p + k * stride; transposes without a copy
  const T* p;
  int64_t stride;
};

// c[m][0 .. NR * W) (+)= sum_k a(m, k) b[k * ldb + ...], k ascending: the order of a sum does not depend on
// the tile.
template <typename T, int MR, int NR>
SELFEDIT_INLINE void FinishTile(Vec<T> (&sum)[MR][NR], T* const* c, int64_t column) {
  SELFEDIT_UNROLL
  for (int m = 0; m < MR; ++m) {
    SELFEDIT_UNROLL
    for (int n = 0; n < NR; ++n) Store(c[m] + column + n * kWidth<T>, sum[m][n]);
  }
}

template <typename T, int MR, int NR>
SELFEDIT_INLINE void StartTile(Vec<T> (&sum)[MR][NR], T* const* c, int64_t column, bool accumulate) {
  SELFEDIT_UNROLL
  for (int m = 0; m < MR; ++m) {
    SELFEDIT_UNROLL
    for (int n = 0; n < NR; ++n) {
      sum[m][n] = accumulate ? Load(c[m] + column + n * kWidth<T>) : Vec<T>{};
    }
  }
}

template <typename T, int MR, int NR>
void Tile(ByRows<T> a, int64_t k, const T* b, int64_t ldb, T* const* c, int64_t column, bool accumulate) {
  Vec<T> sum[MR][NR];
  StartTile<T, MR, NR>(sum, c, column, accumulate);
  const T* row[MR];
  SELFEDIT_UNROLL
  for (int m = 0; m < MR; ++m) row[m] = a.p[m] + a.first;
  for (int64_t i = 0; i < k; ++i, b += ldb) {
    Vec<T> x[NR];
    SELFEDIT_UNROLL
    for (int n = 0; n < NR; ++n) x[n] = Load(b + n * kWidth<T>);
    SELFEDIT_UNROLL
    for (int m = 0; m < MR; ++m) {
      const Vec<T> y = Splat(row[m][i]);
      SELFEDIT_UNROLL
      for (int n = 0; n < NR; ++n) sum[m][n] += y * x[n];
    }
  }
  FinishTile<T, MR, NR>(sum, c, column);
}

template <typename T, int MR, int NR>
void Tile(ByColumns<T> a, int64_t k, const T* b, int64_t ldb, T* const* c, int64_t column, bool accumulate) {
  Vec<T> sum[MR][NR];
  StartTile<T, MR, NR>(sum, c, column, accumulate);
  for (int64_t i = 0; i < k; ++i, b += ldb, a.p += a.stride) {
    Vec<T> x[NR];
    SELFEDIT_UNROLL
    for (int n = 0; n < NR; ++n) x[n] = Load(b + n * kWidth<T>);
    SELFEDIT_UNROLL
    for (int m = 0; m < MR; ++m) {
      const Vec<T> y = Splat(a.p[m]);
      SELFEDIT_UNROLL
      for (int n = 0; n < NR; ++n) sum[m][n] += y * x[n];
    }
  }
  FinishTile<T, MR, NR>(sum, c, column);
}

// `vectors` columns of vectors from `column` of c and from b on.
template <typename T, int MR, typename A>
void Product(A a, int64_t k, const T* b, int64_t ldb, T* const* c, int64_t vectors, bool accumulate) {
  constexpr int W = kWidth<T>;
  int64_t done = 0;
  for (; vectors - done >= kTileVectors; done += kTileVectors) {
    Tile<T, MR, kTileVectors>(a, k, b + done * W, ldb, c, done * W, accumulate);
  }
  switch (vectors - done) {
    case 1:
      return Tile<T, MR, 1>(a, k, b + done * W, ldb, c, done * W, accumulate);
    case 2:
      return Tile < T, MR, kTileVectors < 3 ? 1 : 2 > (a, k, b + done * W, ldb, c, done * W, accumulate);
    case 3:
      return Tile < T, MR, kTileVectors < 4 ? 1 : 3 > (a, k, b + done * W, ldb, c, done * W, accumulate);
    default:
      return;
  }
}

// Swaps the off-diagonal halves of every 2s x 2s block: over all s a transposition.
template <typename T, int s, size_t... t>
SELFEDIT_INLINE void TransposeStage(Vec<T>* r, std::index_sequence<t...>) {
  constexpr int W = kWidth<T>;
  SELFEDIT_UNROLL
  for (int i = 0; i < W; ++i) {
    if (i & s) continue;
    const Vec<T> a = r[i], b = r[i + s];
    r[i] = __builtin_shufflevector(a, b, ((t & s) ? W + t - s : t)...);
    r[i + s] = __builtin_shufflevector(a, b, ((t & s) ? W + t : t + s)...);
  }
}
template <typename T, int s = 1>
SELFEDIT_INLINE void Transpose(Vec<T>* r) {
  if constexpr (s < kWidth<T>) {
    TransposeStage<T, s>(r, std::make_index_sequence<kWidth<T>>());
    Transpose<T, 2 * s>(r);
  }
}

// to[c * ld + j] = from[j * stride + c] for j < count, c < d; 0 for j up to the next multiple of the width.
template <typename T>
void PackTransposed(const T* from, int64_t stride, int64_t count, int64_t d, T* to, int64_t ld) {
  constexpr int W = kWidth<T>;
  for (int64_t j = 0; j < count; j += W) {
    for (int64_t c = 0; c < d; c += W) {
      Vec<T> r[W];
      SELFEDIT_UNROLL
      for (int t = 0; t < W; ++t) {
        r[t] = j + t < count ? LoadUpTo(from + (j + t) * stride + c, d - c) : Vec<T>{};
      }
      Transpose<T>(r);
      const int64_t rows = Min(W, d - c);
      for (int64_t t = 0; t < rows; ++t) Store(to + (c + t) * ld + j, r[t]);
    }
  }
}

// to[j * padded + c] = from[j * stride + c] for c < d, then zeros.
template <typename T>
SELFEDIT_INLINE void CopyPadded(const T* from, int64_t d, T* to) {
  for (int64_t c = 0; c < d; c += kWidth<T>) Store(to + c, LoadUpTo(from + c, d - c));
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
