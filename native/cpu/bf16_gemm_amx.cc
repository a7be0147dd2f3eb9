// The bfloat16 product on the matrix units (AMX). A tile instruction adds 16 pairs of k, in order, to each
// element: the number of rows of a tile changes nothing in the other rows. Compiled with the flags of avx512,
// of the bfloat16 instructions and of the tiles (CMakeLists.txt).
#if defined(__x86_64__)
#include "bf16_gemm_variants.h"
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define SELFEDIT_ISA amx
#include <initializer_list>

#include "isa/amx_tiles.h"
#include "isa/bf16_pack.h"

namespace selfedit::cpu::amx {
namespace {

// y[at most 16 rows, one panel] over `steps` tiles. ldy in bytes.
SELFEDIT_INLINE void OneTile(const uint16_t* a, const uint16_t* b, int64_t steps, float* y, int64_t ldy,
                             bool add) {
  if (add) {
    _tile_loadd(0, y, ldy);
    _tile_loadd(1, y + 16, ldy);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  for (int64_t s = 0; s < steps; ++s, a += kBf16Tile, b += 2 * kBf16Tile) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kBf16Tile, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, y, ldy);
  _tile_stored(1, y + 16, ldy);
}

// Part of a panel that will be needed: `lines` of 64 bytes are asked for in every step.
struct Ahead {
  const char* from;
  int64_t lines;
};

// y[17 to 32 rows, one panel]. a_lower: 16 rows below a.
SELFEDIT_INLINE void TwoTiles(const uint16_t* a, const uint16_t* a_lower, const uint16_t* b, int64_t steps,
                              float* y, int64_t ldy, bool add, Ahead ahead) {
  const int64_t stride = ldy / static_cast<int64_t>(sizeof(float));
  float* lower = y + kBf16Rows * stride;
  if (add) {
    _tile_loadd(0, y, ldy);
    _tile_loadd(1, y + 16, ldy);
    _tile_loadd(2, lower, ldy);
    _tile_loadd(3, lower + 16, ldy);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, a += kBf16Tile, a_lower += kBf16Tile, b += 2 * kBf16Tile) {
    // Little by little, so that the tiles' own lines need not queue: y for the end, the panel for later.
    if (s < kBf16Rows) {
      for (const float* row : {y + 2 * s * stride, y + (2 * s + 1) * stride}) {
        __builtin_prefetch(row, 1);
        __builtin_prefetch(row + 16, 1);
      }
    }
    for (int64_t l = 0; l < ahead.lines; ++l, ahead.from += 64) _mm_prefetch(ahead.from, _MM_HINT_T1);
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a_lower, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, b + kBf16Tile, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, y, ldy);
  _tile_stored(1, y + 16, ldy);
  _tile_stored(2, lower, ldy);
  _tile_stored(3, lower + 16, ldy);
}

// Rows of the last panel, whose columns beyond `out` do not exist.
void CopyRows(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
              int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) to[r * to_stride + j] = from[r * from_stride + j];
  }
}

void Product(const Bf16Block& g) {
  constexpr int64_t kBoth = 2 * kBf16Rows;
  // Panels that meet 32 rows one after the other: they stay in the second-level cache, the rows in the first,
  // and y is written along its rows.
  constexpr int64_t kGroup = 4;
  const auto* operand = static_cast<const uint16_t*>(g.operand);
  alignas(64) float part[kBoth * kBf16Panel] = {};
  Tiles tiles;
  // Each block of rows asks for its share of the panel one group further on.
  const int64_t blocks = g.rows / kBoth;
  const int64_t lines = blocks < 2 ? 0 : (2 * kBf16Tile * 2 / 64 + blocks - 1) / blocks;
  for (int64_t group = g.first_panel; group < g.last_panel; group += kGroup) {
    for (int64_t i = 0; i < g.rows; i += kBoth) {
      const int64_t rows = Min(kBoth, g.rows - i), upper = Min(kBf16Rows, rows), lower = rows - upper;
      tiles.Shape(upper, lower > 0 ? lower : kBf16Rows);
      for (int64_t panel = group; panel < Min(g.last_panel, group + kGroup); ++panel) {
        const int64_t column = panel * kBf16Panel, columns = Min(kBf16Panel, g.out - column);
        const bool whole = columns == kBf16Panel;
        float* y = g.y + i * g.ldy + column;
        float* to = whole ? y : part;
        const int64_t ld = (whole ? g.ldy : kBf16Panel) * static_cast<int64_t>(sizeof(float));
        if (!whole && g.accumulate) CopyRows(y, g.ldy, part, kBf16Panel, rows, columns);
        const uint16_t* a = operand + i / kBf16Rows * g.terms * g.steps * kBf16Tile;
        const uint16_t* b = g.weight + panel * g.steps * 2 * kBf16Tile;
        const auto* next = reinterpret_cast<const char*>(b + kGroup * g.steps * 2 * kBf16Tile);
        const Ahead ahead = {next + i / kBoth * lines * g.steps * 64,
                             panel + kGroup < g.last_panel ? lines : 0};
        for (int term = 0; term < g.terms; ++term, a += g.steps * kBf16Tile) {
          const bool add = g.accumulate || term > 0;
          if (lower > 0) {
            TwoTiles(a, a + g.terms * g.steps * kBf16Tile, b, g.steps, to, ld, add,
                     term == 0 ? ahead : Ahead{nullptr, 0});
          } else {
            OneTile(a, b, g.steps, to, ld, add);
          }
        }
        if (!whole) CopyRows(part, kBf16Panel, y, g.ldy, rows, columns);
      }
    }
  }
}

const Bf16Set kSet = {"amx", sizeof(uint16_t), false, PackBf16Operand, Product};

}  // namespace
const Bf16Set* const kBf16 = &kSet;
}  // namespace selfedit::cpu::amx
#else
namespace selfedit::cpu::amx {
const Bf16Set* const kBf16 = nullptr;
}
#endif
#endif
