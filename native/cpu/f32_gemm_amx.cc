// The float32 product on the matrix units (AMX). Compiled with the flags of avx512, of the bfloat16
// instructions and of the tiles (CMakeLists.txt).
#if defined(__x86_64__)
#include "f32_gemm_variants.h"
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define SELFEDIT_ISA amx
#include <initializer_list>

#include "isa/amx_tiles.h"
#include "scratch.h"

namespace selfedit::cpu::amx {
namespace {

constexpr int64_t kTerms = 3;
constexpr int64_t kBoth = 2 * kBf16Rows;
// Steps of k whose terms of W are made at once: few where W comes from memory all the time, many where they
// meet many rows.
constexpr int64_t kFewSteps = 3, kManySteps = 18;
constexpr int64_t kManyBlocks = 4;  // of 32 rows
constexpr int64_t kStepsAhead = 4;
constexpr int64_t kMostRows = 256;
constexpr int64_t kOperandBytes = 1408 << 10;
constexpr int64_t kOperandStep = kTerms * kBf16Tile;     // of 16 rows of x
constexpr int64_t kWeightStep = 2 * kTerms * kBf16Tile;  // of 32 columns of W^T

// Half away from zero, as a float32; what is left over is exact.
SELFEDIT_INLINE __m512i Upper(__m512 x) {
  return _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)),
                          _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
}
SELFEDIT_INLINE __m512 Less(__m512 x, __m512i term) { return _mm512_sub_ps(x, _mm512_castsi512_ps(term)); }
// A line of a tile: pairs of k, the first of each below. The tiles may take k in any order that both operands
// share; k and k + 16 are a pair, so that two vectors of x make a line without a shuffle.
SELFEDIT_INLINE void StorePair(uint16_t* to, __m512i first, __m512i second) {
  const auto below = reinterpret_cast<__m512i>(reinterpret_cast<BitVec<float>>(first) >> 16);
  _mm512_store_si512(to, _mm512_or_si512(below, second));
}

// The upper half alone. A rest below 2^-126 may have more bits than a term holds: they would spill into the
// other element of its pair.
SELFEDIT_INLINE __m512i Last(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
}

// Two vectors to a line of each of the three terms, `stride` elements apart. What follows an infinity is NaN.
SELFEDIT_INLINE void CutPair(__m512 first, __m512 second, int64_t stride, uint16_t* to) {
  const __m512i first1 = Upper(first), second1 = Upper(second);
  StorePair(to, first1, second1);
  const __m512 first_rest = Less(first, first1), second_rest = Less(second, second1);
  const __m512i first2 = Upper(first_rest), second2 = Upper(second_rest);
  StorePair(to + stride, first2, second2);
  StorePair(to + 2 * stride, Last(Less(first_rest, first2)), Last(Less(second_rest, second2)));
}

// A block of W^T [32 of k][32 columns] to its terms [3][2][16 pairs of k][16 columns][2]. Asks for the block
// that lies `ahead` elements on, unless that is 0.
SELFEDIT_INLINE void CutWeight(const float* w, int64_t ahead, uint16_t* terms) {
  for (int64_t k = 0; k < 16; ++k, w += kF32Panel, terms += 32) {
    const float* second = w + 16 * kF32Panel;
    if (ahead > 0) {
      _mm_prefetch(w + ahead, _MM_HINT_T1);
      _mm_prefetch(w + ahead + 16, _MM_HINT_T1);
      _mm_prefetch(second + ahead, _MM_HINT_T1);
      _mm_prefetch(second + ahead + 16, _MM_HINT_T1);
    }
    CutPair(_mm512_load_ps(w), _mm512_load_ps(second), 2 * kBf16Tile, terms);
    CutPair(_mm512_load_ps(w + 16), _mm512_load_ps(second + 16), 2 * kBf16Tile, terms + kBf16Tile);
  }
}

// Rows of x to [rows / 16][steps][3] tiles [16][32], zero beyond `in`.
void CutRows(const float* x, int64_t ldx, int64_t rows, int64_t in, int64_t steps, uint16_t* terms) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = x + i * ldx;
    uint16_t* to = terms + i / kBf16Rows * steps * kOperandStep + i % kBf16Rows * kBf16Step;
    for (int64_t s = 0; s < steps; ++s, from += kBf16Step, to += kOperandStep) {
      const int64_t left = in - s * kBf16Step;
      if (left >= kBf16Step) {
        CutPair(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16), kBf16Tile, to);
      } else {
        CutPair(LoadUpTo(from, left), left > 16 ? LoadUpTo(from + 16, left - 16) : Vec<float>{}, kBf16Tile,
                to);
      }
    }
  }
}

// One step of k of y[16 rows, 32 columns], in the order that loads the fewest tiles.
SELFEDIT_INLINE void StepOne(const uint16_t* a, const uint16_t* b) {
  const auto columns = [b](int term) {
    _tile_loadd(6, b + 2 * term * kBf16Tile, 64);
    _tile_loadd(7, b + (2 * term + 1) * kBf16Tile, 64);
  };
  const auto add = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
  };
  _tile_loadd(4, a, 64);
  columns(2);
  add();  // x1 w3
  columns(1);
  add();  // x1 w2
  columns(0);
  add();  // x1 w1
  _tile_loadd(4, a + kBf16Tile, 64);
  add();  // x2 w1
  _tile_loadd(4, a + 2 * kBf16Tile, 64);
  add();  // x3 w1
  _tile_loadd(4, a + kBf16Tile, 64);
  columns(1);
  add();  // x2 w2
}

// The same of 32 rows. lower: the operand of the lower 16.
SELFEDIT_INLINE void StepTwo(const uint16_t* a, const uint16_t* lower, const uint16_t* b) {
  const auto rows = [a, lower](int term) {
    _tile_loadd(4, a + term * kBf16Tile, 64);
    _tile_loadd(5, lower + term * kBf16Tile, 64);
  };
  const auto columns = [b](int term) {
    _tile_loadd(6, b + 2 * term * kBf16Tile, 64);
    _tile_loadd(7, b + (2 * term + 1) * kBf16Tile, 64);
  };
  const auto add = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  };
  rows(0);
  columns(2);
  add();
  columns(1);
  add();
  columns(0);
  add();
  rows(1);
  add();
  rows(2);
  add();
  rows(1);
  columns(1);
  add();
}

// y[at most 32 rows, one panel] over `steps` steps of k.
SELFEDIT_INLINE void Block(const uint16_t* a, const uint16_t* lower, const uint16_t* b, int64_t steps,
                           float* y, int64_t stride, bool both, bool add, const float* ahead, int64_t lines) {
  const int64_t ldy = stride * static_cast<int64_t>(sizeof(float));
  float* y_lower = y + kBf16Rows * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (add) {
    _tile_loadd(0, y, ldy);
    _tile_loadd(1, y + 16, ldy);
    if (both) {
      _tile_loadd(2, y_lower, ldy);
      _tile_loadd(3, y_lower + 16, ldy);
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    for (int64_t l = 0; l < lines; ++l, ahead += 16) _mm_prefetch(ahead, _MM_HINT_T1);
    if (both) {
      StepTwo(a + s * kOperandStep, lower + s * kOperandStep, b + s * kWeightStep);
    } else {
      StepOne(a + s * kOperandStep, b + s * kWeightStep);
    }
  }
  _tile_stored(0, y, ldy);
  _tile_stored(1, y + 16, ldy);
  if (both) {
    _tile_stored(2, y_lower, ldy);
    _tile_stored(3, y_lower + 16, ldy);
  }
}

// Columns of a panel that exist, as masks of its two vectors.
struct Columns {
  __mmask16 low, high;
  explicit Columns(int64_t count)
      : low(static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1 << count) - 1)),
        high(static_cast<__mmask16>(count >= kF32Panel ? 0xFFFF
                                    : count <= 16      ? 0
                                                       : (1 << (count - 16)) - 1)) {}
};

// Sums of one panel, [rows][32], from y and to it.
void Begin(const float* y, int64_t ldy, int64_t rows, Columns columns, float* sum) {
  for (int64_t i = 0; i < rows; ++i, sum += kF32Panel, y += ldy) {
    _mm512_store_ps(sum, _mm512_maskz_loadu_ps(columns.low, y));
    _mm512_store_ps(sum + 16, _mm512_maskz_loadu_ps(columns.high, y + 16));
  }
}
void Finish(const float* sum, int64_t rows, Columns columns, float* y, int64_t ldy) {
  for (int64_t i = 0; i < rows; ++i, sum += kF32Panel, y += ldy) {
    _mm512_mask_storeu_ps(y, columns.low, _mm512_load_ps(sum));
    _mm512_mask_storeu_ps(y + 16, columns.high, _mm512_load_ps(sum + 16));
  }
}

// Some rows: few enough that the sums of a panel stay in the second-level cache.
void Rows(const F32Task& g, const float* x, int64_t rows, float* y) {
  const int64_t steps = RoundUp(g.in, kF32Step) / kF32Step, tiles = RoundUp(rows, kBf16Rows) / kBf16Rows;
  const int64_t blocks = (rows + kBoth - 1) / kBoth;
  const int64_t at_once = blocks < kManyBlocks ? kFewSteps : kManySteps;
  // Steps of k of which all the rows' terms lie in the second-level cache.
  const int64_t fit = Min(steps, kOperandBytes / (tiles * kOperandStep * 2) / at_once * at_once);
  const int64_t together = fit > at_once ? fit : at_once;
  const int64_t weight_terms = at_once * kWeightStep;
  const int64_t sum_bytes = tiles * kBf16Rows * kF32Panel * 4;
  auto* cut = static_cast<uint16_t*>(
      Scratch(sum_bytes + (weight_terms + tiles * together * kOperandStep) * sizeof(uint16_t)));
  uint16_t* operand = cut + weight_terms;
  auto* sum = reinterpret_cast<float*>(operand + tiles * together * kOperandStep);
  Tiles shape;
  // Each block of rows asks for its share of the weights that come next.
  const int64_t lines = blocks < kManyBlocks ? 0 : (64 + blocks - 1) / blocks;
  for (int64_t outer = 0; outer < steps; outer += together) {
    const int64_t held = Min(together, steps - outer);
    CutRows(x + outer * kF32Step, g.ldx, rows, g.in - outer * kF32Step, held, operand);
    for (int64_t panel = g.first_panel; panel < g.last_panel; ++panel) {
      const float* w = g.weight + (panel * steps + outer) * kF32Block;
      float* to = y + panel * kF32Panel;
      const Columns columns(g.out - panel * kF32Panel);
      const bool add = g.accumulate || outer > 0;
      if (add) Begin(to, g.ldy, rows, columns, sum);
      for (int64_t first = 0; first < held; first += at_once) {
        const int64_t count = Min(at_once, held - first);
        for (int64_t s = 0; s < count; ++s)
          CutWeight(w + (first + s) * kF32Block, lines > 0 ? 0 : kStepsAhead * kF32Block,
                    cut + s * kWeightStep);
        const float* ahead = w + (first + count) * kF32Block;
        for (int64_t i = 0; i < rows; i += kBoth) {
          const int64_t here = Min(kBoth, rows - i), upper = Min(kBf16Rows, here), lower = here - upper;
          shape.Shape(upper, lower > 0 ? lower : kBf16Rows);
          const uint16_t* a = operand + (i / kBf16Rows * held + first) * kOperandStep;
          Block(a, a + held * kOperandStep, cut, count, sum + i * kF32Panel, kF32Panel, lower > 0,
                add || first > 0, ahead, lines);
          ahead += lines * count * 16;
        }
      }
      Finish(sum, rows, columns, to, g.ldy);
    }
  }
}

void Product(const F32Task& g) {
  // Parts of about the same size.
  const int64_t parts = (g.rows + kMostRows - 1) / kMostRows;
  const int64_t step = RoundUp((g.rows + parts - 1) / parts, kBoth);
  for (int64_t i = 0; i < g.rows; i += step) {
    Rows(g, g.x + i * g.ldx, Min(step, g.rows - i), g.y + i * g.ldy);
  }
}

const F32Set kSet = {"amx", Product};

}  // namespace
const F32Set* const kF32 = &kSet;
}  // namespace selfedit::cpu::amx
#else
namespace selfedit::cpu::amx {
const F32Set* const kF32 = nullptr;
}
#endif
#endif
