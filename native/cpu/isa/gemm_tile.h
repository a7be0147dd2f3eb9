// The register tiles of the low-rank products, for one instruction set.
#pragma once
#include "tile.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32
#else
constexpr bool kManyRegisters = false;  // 16
#endif

// a b + c with the rounding of the sums, never left to the compiler's choice of which product it fuses.
template <typename T>
SELFEDIT_INLINE Vec<T> MultiplyAdd(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_fmadd_ps(a, b, c);
  } else {
    return _mm512_fmadd_pd(a, b, c);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    return _mm256_fmadd_ps(a, b, c);
  } else {
    return _mm256_fmadd_pd(a, b, c);
  }
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) {
    return vfmaq_f32(c, a, b);
  } else {
    return vfmaq_f64(c, a, b);
  }
#else
  return a * b + c;
#endif
}

// The first kLanes of a vector as a vector of their own.
template <typename T, int kLanes>
struct Piece {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
  typedef T Unaligned __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
  template <size_t... t>
  static SELFEDIT_INLINE auto Double(Type piece, std::index_sequence<t...>) {
    return __builtin_shufflevector(piece, Type{}, t...);
  }
  template <size_t... t>
  static SELFEDIT_INLINE Type First(Vec<T> value, std::index_sequence<t...>) {
    return __builtin_shufflevector(value, value, t...);
  }
  static SELFEDIT_INLINE Vec<T> Widen(Type piece) {
    const auto twice = Double(piece, std::make_index_sequence<2 * kLanes>());
    if constexpr (2 * kLanes < kWidth<T>) {
      return Piece<T, 2 * kLanes>::Widen(twice);
    } else {
      return twice;
    }
  }
  static SELFEDIT_INLINE Vec<T> Load(const T* p) { return Widen(*reinterpret_cast<const Unaligned*>(p)); }
  static SELFEDIT_INLINE void Store(T* p, Vec<T> value) {
    *reinterpret_cast<Unaligned*>(p) = First(value, std::make_index_sequence<kLanes>());
  }
};

// LoadUpTo and StoreUpTo, but half and quarter vectors (ranks 4 and 8) without a mask: a masked load that
// overlaps a masked store of the row before has to wait for it.
template <typename T>
SELFEDIT_INLINE Vec<T> LoadTail(const T* p, int64_t remaining) {
  constexpr int W = kWidth<T>;
  if constexpr (W >= 8) {
    if (remaining == W / 2) return Piece<T, W / 2>::Load(p);
    if (remaining == W / 4) return Piece<T, W / 4>::Load(p);
  }
  return LoadUpTo(p, remaining);
}

template <typename T>
SELFEDIT_INLINE void StoreTail(T* p, Vec<T> value, int64_t remaining) {
  constexpr int W = kWidth<T>;
  if constexpr (W >= 8) {
    if (remaining == W / 2) return Piece<T, W / 2>::Store(p, value);
    if (remaining == W / 4) return Piece<T, W / 4>::Store(p, value);
  }
  StoreUpTo(p, value, remaining);
}

// c = alpha sum + beta c in the first `remaining` lanes.
template <typename T>
SELFEDIT_INLINE void Finish(Vec<T> sum, T alpha, T beta, T* c, int64_t remaining) {
  const Vec<T> old = beta == T(0) ? Vec<T>{} : LoadTail(c, remaining) * Splat(beta);
  const Vec<T> scaled = beta == T(0) ? Splat(alpha) * sum : MultiplyAdd<T>(Splat(alpha), sum, old);
  StoreTail(c, scaled, remaining);
}

// The same where `remaining` is not known when compiling: out of line, so that the tiles stay small.
template <typename T>
__attribute__((noinline)) void FinishPart(Vec<T> sum, T alpha, T beta, T* c, int64_t remaining) {
  Finish(sum, alpha, beta, c, remaining);
}

// ---- outer
// ----------------------------------------------------------------------------------------------------------

// Most vectors of columns and, for so many vectors, most rows whose sums fit into the registers together.
constexpr int kOuterVectors = kManyRegisters ? 4 : 2;
constexpr int OuterRows(int vectors) {
  return kManyRegisters ? (vectors == 1 ? 12 : 24 / vectors) : (vectors == 1 ? 8 : 6);
}

// A tile of C: where its operands begin, and how many lanes of its last vector exist.
template <typename T>
struct OuterTile {
  int64_t steps;
  T alpha, beta;
  const T* a;
  int64_t a_row, a_step;
  const T* b;
  int64_t b_step;
  T* c;
  int64_t ldc;
  int64_t last;
};

template <typename T, int kRows, int kVectors>
void RunOuterTile(const OuterTile<T>& tile) {
  constexpr int W = kWidth<T>;
  Vec<T> sum[kRows][kVectors];
  SELFEDIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    SELFEDIT_UNROLL
    for (int j = 0; j < kVectors; ++j) sum[i][j] = Vec<T>{};
  }
  const T* a = tile.a;
  const T* b = tile.b;
  const int64_t a_row = tile.a_row, a_step = tile.a_step, b_step = tile.b_step;
  for (int64_t p = 0; p < tile.steps; ++p, a += a_step, b += b_step) {
    Vec<T> row[kVectors];
    SELFEDIT_UNROLL
    for (int j = 0; j < kVectors; ++j) row[j] = Load(b + j * W);
    SELFEDIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> x = Splat(a[i * a_row]);
      SELFEDIT_UNROLL
      for (int j = 0; j < kVectors; ++j) sum[i][j] = MultiplyAdd<T>(x, row[j], sum[i][j]);
    }
  }
  SELFEDIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    T* c = tile.c + i * tile.ldc;
    SELFEDIT_UNROLL
    for (int j = 0; j + 1 < kVectors; ++j) Finish(sum[i][j], tile.alpha, tile.beta, c + j * W, W);
    if (tile.last == W) {
      Finish(sum[i][kVectors - 1], tile.alpha, tile.beta, c + (kVectors - 1) * W, W);
    } else {
      FinishPart(sum[i][kVectors - 1], tile.alpha, tile.beta, c + (kVectors - 1) * W, tile.last);
    }
  }
}

template <typename T, int kRows, int kVectors>
SELFEDIT_INLINE void OuterTileOf(int64_t rows, const OuterTile<T>& tile) {
  if (rows == kRows) {
    RunOuterTile<T, kRows, kVectors>(tile);
  } else if constexpr (kRows > 1) {
    OuterTileOf<T, kRows - 1, kVectors>(rows, tile);
  }
}

// All m rows of one panel of columns and one block of k, in tiles of nearly the same height.
template <typename T, int kVectors>
void OuterPanel(int64_t vectors, int64_t m, OuterTile<T> tile) {
  if (vectors != kVectors) {
    if constexpr (kVectors > 1) OuterPanel<T, kVectors - 1>(vectors, m, tile);
    return;
  }
  constexpr int kRows = OuterRows(kVectors);
  for (int64_t tiles = (m + kRows - 1) / kRows; tiles > 0; --tiles) {
    const int64_t rows = (m + tiles - 1) / tiles;
    OuterTileOf<T, kRows, kVectors>(rows, tile);
    tile.a += rows * tile.a_row;
    tile.c += rows * tile.ldc;
    m -= rows;
  }
}

// ---- dot
// ------------------------------------------------------------------------------------------------------------

constexpr int kDotRows = kManyRegisters ? 6 : 3;
// Tiles of few rows are wider: fewer than eight sums would wait for each other.
constexpr int DotColumns(int64_t rows) { return 2 * rows <= kDotRows ? 8 : 4; }

template <typename T>
struct DotTile {
  int64_t steps;
  T alpha, beta;
  const T* a;
  int64_t lda;
  const T* b;
  int64_t ldb;
  T* c;
  int64_t ldc;
  int64_t columns;  // of the tile that exist
};

// Lane t of the result: the sum over lane pairs (t, t ^ s) of a where t & s is 0, of b where it is not.
template <typename T, int s, size_t... t>
SELFEDIT_INLINE Vec<T> AddPairs(Vec<T> a, Vec<T> b, std::index_sequence<t...>) {
  constexpr int W = kWidth<T>;
  return __builtin_shufflevector(a, b, ((t & s) ? W + t : t)...) +
         __builtin_shufflevector(a, b, ((t & s) ? W + (t ^ s) : (t ^ s))...);
}
template <typename T, int s>
SELFEDIT_INLINE Vec<T> AddPairs(Vec<T> a, Vec<T> b) {
  return AddPairs<T, s>(a, b, std::make_index_sequence<kWidth<T>>());
}

// Every group of four lanes of the result ends as the sums of the four vectors. Narrower than four lanes, one
// by one.
template <typename T, int s = 4>
SELFEDIT_INLINE Vec<T> AddFours(Vec<T> v) {
  if constexpr (s < kWidth<T>) {
    return AddFours<T, 2 * s>(v + Swap<T, s>(v));
  } else {
    return v;
  }
}
template <typename T>
SELFEDIT_INLINE void FinishFour(const Vec<T>* v, const DotTile<T>& tile, T* c, int64_t columns) {
  if constexpr (kWidth<T> >= 4) {
    const Vec<T> sums = AddFours<T>(AddPairs<T, 2>(AddPairs<T, 1>(v[0], v[1]), AddPairs<T, 1>(v[2], v[3])));
    if (columns >= 4) {
      Finish(sums, tile.alpha, tile.beta, c, 4);
    } else {
      FinishPart(sums, tile.alpha, tile.beta, c, columns);
    }
  } else {
    FinishPart(AddPairs<T, 1>(v[0], v[1]), tile.alpha, tile.beta, c, Min(columns, 2));
    if (columns > 2)
      FinishPart(AddPairs<T, 1>(v[2], v[3]), tile.alpha, tile.beta, c + 2, Min(columns - 2, 2));
  }
}

template <typename T, int kRows, int kColumns>
void RunDotTile(const DotTile<T>& tile) {
  constexpr int W = kWidth<T>;
  const int64_t lda = tile.lda;
  const T* b[kColumns];
  Vec<T> sum[kRows][kColumns];
  SELFEDIT_UNROLL
  for (int j = 0; j < kColumns; ++j) {
    b[j] = tile.b + (j < tile.columns ? j : 0) * tile.ldb;
    SELFEDIT_UNROLL
    for (int i = 0; i < kRows; ++i) sum[i][j] = Vec<T>{};
  }
  int64_t p = 0;
  for (; p + W <= tile.steps; p += W) {
    Vec<T> x[kRows];
    SELFEDIT_UNROLL
    for (int i = 0; i < kRows; ++i) x[i] = Load(tile.a + i * lda + p);
    SELFEDIT_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const Vec<T> y = Load(b[j] + p);
      SELFEDIT_UNROLL
      for (int i = 0; i < kRows; ++i) sum[i][j] = MultiplyAdd<T>(x[i], y, sum[i][j]);
    }
  }
  if (p < tile.steps) {
    const int64_t rest = tile.steps - p;
    Vec<T> x[kRows];
    SELFEDIT_UNROLL
    for (int i = 0; i < kRows; ++i) x[i] = LoadPart(tile.a + i * lda + p, rest);
    SELFEDIT_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const Vec<T> y = LoadPart(b[j] + p, rest);
      SELFEDIT_UNROLL
      for (int i = 0; i < kRows; ++i) sum[i][j] = MultiplyAdd<T>(x[i], y, sum[i][j]);
    }
  }
  SELFEDIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    SELFEDIT_UNROLL
    for (int j = 0; j < kColumns; j += 4) {
      if (j < tile.columns) FinishFour<T>(&sum[i][j], tile, tile.c + i * tile.ldc + j, tile.columns - j);
    }
  }
}

template <typename T, int kRows>
SELFEDIT_INLINE void DotTileOf(int64_t rows, const DotTile<T>& tile) {
  if (rows == kRows) {
    if constexpr (DotColumns(kRows) == 8) {
      if (tile.columns > 4) return RunDotTile<T, kRows, 8>(tile);
    }
    RunDotTile<T, kRows, 4>(tile);
  } else if constexpr (kRows > 1) {
    DotTileOf<T, kRows - 1>(rows, tile);
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
