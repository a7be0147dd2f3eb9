// The two ways in which a product is summed, for the instruction set of gemm_vector.h. Which one runs depends
// on n, k and the transpositions, never on m.
//
// Outer: C's rows and columns are tiled in registers, a row of B is a vector, an element of A is broadcast;
// element (i, j)
//   is one chain of multiply-adds over each block of kOuterBlock steps of k. B is read where it lies when
//   that is as good, otherwise a panel of it is copied (and turned, when transposed) first; that does not
//   change the sums.
// Dot: rows of A times rows of B^T, both contiguous along k; element (i, j) has one chain a lane over each
// block of
//   kDotBlock steps, then the lanes are summed as a tree. No copy, hence quick for few rows and a long k.
// Blocks are added to C in order. Tails run through the same instructions with masked or zero-filled lanes.
#pragma once
#include "gemm_vector.h"

namespace selfedit::cpu::SELFEDIT_GEMM_SET {

constexpr int64_t kOuterBlock = 128;
constexpr int64_t kDotBlock = 1024;
constexpr int64_t kDotFrom = 256;  // shortest k for which the sums of lanes at the end cost little

// Most vectors of columns and, for n vectors of columns, most rows whose sums fit into registers together.
constexpr int kOuterVectors = kRegisters == 32 ? 4 : 2;
constexpr int OuterRows(int vectors) {
  return kRegisters == 32 ? (vectors == 1 ? 12 : 24 / vectors) : (vectors == 1 ? 8 : 6);
}
constexpr int kDotRows = kRegisters == 32 ? 6 : 2;

// Up to this many columns, Dot pays for a B that is not transposed too: Outer would leave half of its lanes
// empty.
template <typename T>
constexpr int64_t kTurnedColumns = Vector<T>::kLanes > 4 ? Vector<T>::kLanes / 2 : 1;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// One product with its strides: element (i, p) of op(A) is a[i * a_row + p * a_step].
template <typename T>
struct Product {
  int64_t m, n, k;
  T alpha, beta;
  const T* a;
  int64_t a_row, a_step;
  const T* b;
  int64_t ldb;
  bool transpose_b;
  T* c;
  int64_t ldc;
};

// target[x, y] = source[y, x] for x, y < kLanes.
template <typename T>
inline void Turn(const T* source, int64_t source_row, T* target, int64_t target_row) {
  using V = Vector<T>;
  typename V::Type v[V::kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::kLanes; ++i) v[i] = V::Load(source + i * source_row);
  V::Transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < V::kLanes; ++i) V::Store(target + i * target_row, v[i]);
}

// The same for y < rows, x < columns, both at most kLanes; zero for the other y < kLanes.
template <typename T>
inline void TurnPart(const T* source, int64_t source_row, int64_t rows, int64_t columns, T* target,
                     int64_t target_row) {
  using V = Vector<T>;
  typename V::Type v[V::kLanes];
  for (int i = 0; i < V::kLanes; ++i) {
    v[i] = i < rows ? V::Load(source + i * source_row, static_cast<int>(columns)) : V::Zero();
  }
  V::Transpose(v);
  for (int i = 0; i < columns; ++i) V::Store(target + i * target_row, v[i]);
}

// ---- outer
// ------------------------------------------------------------------------------------------------------------

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
  int last;
};

template <typename T, int kRows, int kVectors>
void RunOuterTile(const OuterTile<T>& tile) {
  using V = Vector<T>;
  typename V::Type sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = V::Zero();
  }
  const T* a = tile.a;
  const T* b = tile.b;
  const int64_t a_row = tile.a_row, a_step = tile.a_step, b_step = tile.b_step;
  for (int64_t p = 0; p < tile.steps; ++p) {
    typename V::Type row[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) row[j] = V::Load(b + j * V::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const typename V::Type x = V::Set(a[i * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = V::Fma(x, row[j], sum[i][j]);
    }
    a += a_step;
    b += b_step;
  }
  const typename V::Type alpha = V::Set(tile.alpha), beta = V::Set(tile.beta);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      T* c = tile.c + i * tile.ldc + j * V::kLanes;
      const int lanes = j + 1 < kVectors ? V::kLanes : tile.last;
      typename V::Type x;
      if (tile.beta == T(0)) {
        x = V::Mul(alpha, sum[i][j]);
      } else {
        x = V::Fma(alpha, sum[i][j], V::Mul(beta, lanes == V::kLanes ? V::Load(c) : V::Load(c, lanes)));
      }
      if (lanes == V::kLanes) {
        V::Store(c, x);
      } else {
        V::Store(c, x, lanes);
      }
    }
  }
}

template <typename T, int kRows, int kVectors>
inline void OuterTileOf(int64_t rows, const OuterTile<T>& tile) {
  if (rows == kRows) {
    RunOuterTile<T, kRows, kVectors>(tile);
  } else if constexpr (kRows > 1) {
    OuterTileOf<T, kRows - 1, kVectors>(rows, tile);
  }
}

// All rows of one panel of columns and one block of k; rows are split evenly.
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

// Copies steps x columns of op(B) to a panel of width columns, the rest of each row zero.
template <typename T>
void PackPanel(const Product<T>& g, int64_t step, int64_t steps, int64_t column, int64_t columns,
               int64_t width, T* panel) {
  using V = Vector<T>;
  if (g.transpose_b) {
    for (int64_t j = 0; j < columns; j += V::kLanes) {
      const T* source = g.b + (column + j) * g.ldb + step;
      for (int64_t p = 0; p < steps; p += V::kLanes) {
        T* target = panel + p * width + j;
        if (columns - j >= V::kLanes && steps - p >= V::kLanes) {
          Turn(source + p, g.ldb, target, width);
        } else {
          TurnPart(source + p, g.ldb, Min(columns - j, V::kLanes), Min(steps - p, V::kLanes), target, width);
        }
      }
    }
    return;
  }
  for (int64_t p = 0; p < steps; ++p) {
    const T* source = g.b + (step + p) * g.ldb + column;
    int64_t j = 0;
    for (; j + V::kLanes <= columns; j += V::kLanes) V::Store(panel + p * width + j, V::Load(source + j));
    if (j < columns) V::Store(panel + p * width + j, V::Load(source + j, static_cast<int>(columns - j)));
  }
}

template <typename T>
void Outer(const Product<T>& g) {
  using V = Vector<T>;
  alignas(64) T panel[kOuterBlock * kOuterVectors * V::kLanes];
  int64_t vectors = (g.n + V::kLanes - 1) / V::kLanes;
  int64_t column = 0;
  for (int64_t panels = (vectors + kOuterVectors - 1) / kOuterVectors; panels > 0; --panels) {
    const int64_t wide = (vectors + panels - 1) / panels;
    const int64_t width = wide * V::kLanes;
    const int64_t columns = Min(width, g.n - column);
    // Rows of B far apart share few cache sets: many tiles of rows are worth a copy.
    const bool pack = g.transpose_b || columns < width ||
                      (g.ldb > 4 * width && g.m > 2 * OuterRows(static_cast<int>(wide)));
    for (int64_t step = 0; step < g.k; step += kOuterBlock) {
      OuterTile<T> tile;
      tile.steps = Min(kOuterBlock, g.k - step);
      tile.alpha = g.alpha;
      tile.beta = step == 0 ? g.beta : T(1);
      tile.a = g.a + step * g.a_step;
      tile.a_row = g.a_row;
      tile.a_step = g.a_step;
      tile.b = pack ? panel : g.b + step * g.ldb + column;
      tile.b_step = pack ? width : g.ldb;
      tile.c = g.c + column;
      tile.ldc = g.ldc;
      tile.last = static_cast<int>(columns - (wide - 1) * V::kLanes);
      if (pack) PackPanel(g, step, tile.steps, column, columns, width, panel);
      OuterPanel<T, kOuterVectors>(wide, g.m, tile);
    }
    column += columns;
    vectors -= wide;
  }
}

// ---- dot
// --------------------------------------------------------------------------------------------------------------

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
  int columns;  // of the tile that exist
};

template <typename T, int kRows, int kColumns>
void RunDotTile(const DotTile<T>& tile) {
  using V = Vector<T>;
  const T* a = tile.a;
  const T* b[kColumns];
  typename V::Type sum[kRows][kColumns];
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j) {
    b[j] = tile.b + (j < tile.columns ? j : 0) * tile.ldb;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sum[i][j] = V::Zero();
  }
  const int64_t lda = tile.lda;
  int64_t p = 0;
  for (; p + V::kLanes <= tile.steps; p += V::kLanes) {
    typename V::Type x[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) x[i] = V::Load(a + i * lda + p);
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      const typename V::Type y = V::Load(b[j] + p);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) sum[i][j] = V::Fma(x[i], y, sum[i][j]);
    }
  }
  if (p < tile.steps) {
    const int rest = static_cast<int>(tile.steps - p);
    typename V::Type x[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) x[i] = V::Load(a + i * lda + p, rest);
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      const typename V::Type y = V::Load(b[j] + p, rest);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) sum[i][j] = V::Fma(x[i], y, sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kColumns; j += 4) {
      T total[4];
      V::Sum4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3], total);
      T* c = tile.c + i * tile.ldc + j;
      for (int q = 0; q < 4 && j + q < tile.columns; ++q) {
        c[q] = tile.beta == T(0) ? tile.alpha * total[q] : Fma(tile.alpha, total[q], tile.beta * c[q]);
      }
    }
  }
}

template <typename T, int kRows>
inline void DotTileOf(int64_t rows, const DotTile<T>& tile) {
  if (rows == kRows) {
    if constexpr (kRows <= kDotRows / 2) {
      if (tile.columns > 4) return RunDotTile<T, kRows, 8>(tile);
    }
    RunDotTile<T, kRows, 4>(tile);
  } else if constexpr (kRows > 1) {
    DotTileOf<T, kRows - 1>(rows, tile);
  }
}

// C += of one block of k, B^T with rows of ldb elements.
template <typename T>
void DotBlock(const Product<T>& g, int64_t step, int64_t steps, const T* b, int64_t ldb) {
  int64_t row = 0;
  for (int64_t tiles = (g.m + kDotRows - 1) / kDotRows; tiles > 0; --tiles) {
    const int64_t rows = (g.m - row + tiles - 1) / tiles;
    const int64_t wide = rows <= kDotRows / 2 ? 8 : 4;
    for (int64_t column = 0; column < g.n; column += wide) {
      DotTile<T> tile;
      tile.steps = steps;
      tile.alpha = g.alpha;
      tile.beta = step == 0 ? g.beta : T(1);
      tile.a = g.a + row * g.a_row + step;
      tile.lda = g.a_row;
      tile.b = b + column * ldb;
      tile.ldb = ldb;
      tile.c = g.c + row * g.ldc + column;
      tile.ldc = g.ldc;
      tile.columns = static_cast<int>(Min(wide, g.n - column));
      DotTileOf<T, kDotRows>(rows, tile);
    }
    row += rows;
  }
}

template <typename T>
void Dot(const Product<T>& g) {
  using V = Vector<T>;
  if (g.transpose_b) {
    for (int64_t step = 0; step < g.k; step += kDotBlock) {
      DotBlock(g, step, Min(kDotBlock, g.k - step), g.b + step, g.ldb);
    }
    return;
  }
  // Few columns: turned once, so that the vectors are full.
  alignas(64) T turned[kDotBlock * kTurnedColumns<T>];
  for (int64_t step = 0; step < g.k; step += kDotBlock) {
    const int64_t steps = Min(kDotBlock, g.k - step);
    for (int64_t p = 0; p < steps; p += V::kLanes) {
      TurnPart(g.b + (step + p) * g.ldb, g.ldb, Min(V::kLanes, steps - p), Min(g.n, kTurnedColumns<T>),
               turned + p, kDotBlock);
    }
    DotBlock(g, step, steps, turned, kDotBlock);
  }
}

// ---- entry
// ------------------------------------------------------------------------------------------------------------

template <typename T>
void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
          int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
    }
    return;
  }
  const Product<T> g{m, n,   k,           alpha, beta, a, transpose_a ? 1 : lda, transpose_a ? lda : 1,
                     b, ldb, transpose_b, c,     ldc};
  if (!transpose_a && k >= kDotFrom && (transpose_b || n <= kTurnedColumns<T>)) {
    Dot(g);
  } else {
    Outer(g);
  }
}

}  // namespace selfedit::cpu::SELFEDIT_GEMM_SET
