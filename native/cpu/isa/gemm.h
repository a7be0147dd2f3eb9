// The two ways in which a product is summed, for one instruction set (isa/simd.h). Which one runs depends on
// n, k and the transpositions, never on m; within each, the same instructions in the same order make an
// element whatever its tile is.
//
// Outer: element (i, j) is one chain of multiply-adds over each block of kOuterBlock steps of k. A row of B
// is a vector, an element of A is broadcast. B is read where it lies when that is as good, otherwise a panel
// of its columns is copied (and turned, when it is transposed) first: that does not change the sums.
//
// Dot: rows of A times rows of B^T, both contiguous along k. Element (i, j) has one chain a lane over each
// block of kDotBlock steps, then its lanes are summed as a tree. Needs no copy, hence quick for few rows and
// a long k.
//
// Blocks of k are added to C in order. Tails run through the same instructions with masked or zero lanes.
#pragma once
#include "gemm_tile.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kOuterBlock = 128;
constexpr int64_t kDotBlock = 1024;
constexpr int64_t kDotFrom = 256;  // shortest k for which the sums of lanes at the end cost little

// Up to this many columns would leave half of the lanes empty: such products are turned around.
template <typename T>
constexpr int64_t kFewColumns = kWidth<T> > 4 ? kWidth<T> / 2 : 1;

// One product with its strides: element (i, p) of op(A) is a[i * a_row + p * a_step].
template <typename T>
struct Operands {
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

// to[j * ld + i] = from[i * stride + j] for i < rows, j < columns (at most the width); zero for the other i <
// width.
template <typename T>
SELFEDIT_INLINE void TurnSquare(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to,
                                int64_t ld) {
  constexpr int W = kWidth<T>;
  Vec<T> v[W];
  if (rows >= W && columns >= W) {
    SELFEDIT_UNROLL
    for (int i = 0; i < W; ++i) v[i] = Load(from + i * stride);
    Transpose<T>(v);
    SELFEDIT_UNROLL
    for (int i = 0; i < W; ++i) Store(to + i * ld, v[i]);
    return;
  }
  for (int i = 0; i < W; ++i) v[i] = i < rows ? LoadTail(from + i * stride, columns) : Vec<T>{};
  Transpose<T>(v);
  for (int i = 0; i < Min(columns, W); ++i) Store(to + i * ld, v[i]);
}

// ---- outer
// ----------------------------------------------------------------------------------------------------------

// Steps x columns of op(B) to a panel whose rows have `width` elements, zero behind the columns.
template <typename T>
void PackPanel(const Operands<T>& g, int64_t step, int64_t steps, int64_t column, int64_t columns,
               int64_t width, T* panel) {
  constexpr int W = kWidth<T>;
  if (g.transpose_b) {
    for (int64_t j = 0; j < columns; j += W) {
      const T* from = g.b + (column + j) * g.ldb + step;
      for (int64_t p = 0; p < steps; p += W) {
        TurnSquare(from + p, g.ldb, columns - j, steps - p, panel + p * width + j, width);
      }
    }
    return;
  }
  for (int64_t p = 0; p < steps; ++p) {
    const T* from = g.b + (step + p) * g.ldb + column;
    for (int64_t j = 0; j < columns; j += W) Store(panel + p * width + j, LoadTail(from + j, columns - j));
  }
}

template <typename T>
void Outer(const Operands<T>& g) {
  constexpr int W = kWidth<T>;
  alignas(64) T panel[kOuterBlock * kOuterVectors * W];
  int64_t vectors = (g.n + W - 1) / W;
  int64_t column = 0;
  for (int64_t panels = (vectors + kOuterVectors - 1) / kOuterVectors; panels > 0; --panels) {
    const int64_t wide = (vectors + panels - 1) / panels, width = wide * W;
    const int64_t columns = Min(width, g.n - column);
    // Rows of B far apart share few cache sets: many tiles of rows are worth a copy.
    const bool pack = g.transpose_b || columns < width ||
                      (g.ldb > 4 * width && g.m > 2 * OuterRows(static_cast<int>(wide)));
    for (int64_t step = 0; step < g.k; step += kOuterBlock) {
      const int64_t steps = Min(kOuterBlock, g.k - step);
      if (pack) PackPanel(g, step, steps, column, columns, width, panel);
      OuterTile<T> tile;
      tile.steps = steps;
      tile.alpha = g.alpha;
      tile.beta = step == 0 ? g.beta : T(1);
      tile.a = g.a + step * g.a_step;
      tile.a_row = g.a_row;
      tile.a_step = g.a_step;
      tile.b = pack ? panel : g.b + step * g.ldb + column;
      tile.b_step = pack ? width : g.ldb;
      tile.c = g.c + column;
      tile.ldc = g.ldc;
      tile.last = columns - (wide - 1) * W;
      OuterPanel<T, kOuterVectors>(wide, g.m, tile);
    }
    column += columns;
    vectors -= wide;
  }
}

// A^T B with few columns: the rows of C, contiguous in A, become the lanes; pieces of C^T are then turned and
// added.
template <typename T>
void TurnedOuter(const Operands<T>& g) {
  constexpr int W = kWidth<T>;
  constexpr int64_t kPiece = kOuterVectors * W;
  alignas(64) T sums[W * kPiece];  // [n, piece]; the rows of C^T that do not exist are never read
  alignas(64) T turned[W * W];
  for (int64_t row = 0; row < g.m; row += kPiece) {
    const int64_t rows = Min(kPiece, g.m - row);
    for (int64_t step = 0; step < g.k; step += kOuterBlock) {
      const int64_t steps = Min(kOuterBlock, g.k - step);
      Outer(Operands<T>{g.n, rows, steps, T(1), T(0), g.b + step * g.ldb, 1, g.ldb,
                        g.a + step * g.a_step + row, g.a_step, false, sums, kPiece});
      const T beta = step == 0 ? g.beta : T(1);
      for (int64_t i = 0; i < rows; i += W) {
        TurnSquare(sums + i, kPiece, g.n, W, turned, W);
        for (int64_t q = 0; q < Min(W, rows - i); ++q) {
          Finish(Load(turned + q * W), g.alpha, beta, g.c + (row + i + q) * g.ldc, g.n);
        }
      }
    }
  }
}

// ---- dot
// ------------------------------------------------------------------------------------------------------------

// One block of k, the rows of B^T at b.
template <typename T>
void DotBlock(const Operands<T>& g, int64_t step, int64_t steps, const T* b, int64_t ldb) {
  int64_t row = 0;
  for (int64_t tiles = (g.m + kDotRows - 1) / kDotRows; tiles > 0; --tiles) {
    const int64_t rows = (g.m - row + tiles - 1) / tiles;
    const int64_t wide = DotColumns(rows);
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
      tile.columns = Min(wide, g.n - column);
      DotTileOf<T, kDotRows>(rows, tile);
    }
    row += rows;
  }
}

template <typename T>
void Dot(const Operands<T>& g) {
  for (int64_t step = 0; step < g.k; step += kDotBlock) {
    DotBlock(g, step, Min(kDotBlock, g.k - step), g.b + step, g.ldb);
  }
}

// B has few columns and is not transposed: it is turned first, so that the lanes are full.
template <typename T>
void TurnedDot(const Operands<T>& g) {
  constexpr int W = kWidth<T>;
  alignas(64) T turned[kDotBlock * kFewColumns<T>];
  for (int64_t step = 0; step < g.k; step += kDotBlock) {
    const int64_t steps = Min(kDotBlock, g.k - step);
    for (int64_t p = 0; p < steps; p += W) {
      TurnSquare(g.b + (step + p) * g.ldb, g.ldb, steps - p, Min(g.n, kFewColumns<T>), turned + p, kDotBlock);
    }
    DotBlock(g, step, steps, turned, kDotBlock);
  }
}

// ---- entry
// ----------------------------------------------------------------------------------------------------------

template <typename T>
void GemmOf(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
            int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
    }
    return;
  }
  const Operands<T> g{m, n,   k,           alpha, beta, a, transpose_a ? 1 : lda, transpose_a ? lda : 1,
                      b, ldb, transpose_b, c,     ldc};
  if (transpose_a) {
    return !transpose_b && n <= kFewColumns<T> ? TurnedOuter(g) : Outer(g);
  }
  if (k < kDotFrom) return Outer(g);
  if (transpose_b) return Dot(g);
  return n <= kFewColumns<T> ? TurnedDot(g) : Outer(g);
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
