// The bfloat16 product without bfloat16 instructions: both halves of a pair become float32, and are
// multiplied and added one after the other. Element (i, j) is one chain over k.
#pragma once
#include "../bf16_gemm_variants.h"
#include "bf16_round.h"
#include "gemm_tile.h"
#include "row_count.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int kBf16Vectors = 2;                         // of columns in one pass
constexpr int kBf16BlockRows = kManyRegisters ? 8 : 4;  // of x in one pass

// The operand stays in float32: the sum of its terms.
void PackBf16Operand(const float* x, int64_t ldx, int64_t rows, int64_t in, int terms, void* operand) {
  constexpr int W = kWidth<float>;
  const int64_t width = RoundUp(in, kBf16Step);
  for (int64_t i = 0; i < rows; ++i) {
    float* to = static_cast<float*>(operand) + i / kBf16Rows * kBf16Rows * width + i % kBf16Rows * kBf16Step;
    for (int64_t k = 0; k < width; k += W) {
      const Vec<float> all = k < in ? LoadUpTo(x + i * ldx + k, in - k) : Vec<float>{};
      Vec<float> sum = RoundBf16(all);
      for (int t = 1; t < terms; ++t) sum += RoundBf16(LeftOver(all, sum));
      Store(to + k / kBf16Step * kBf16Tile + k % kBf16Step, sum);
    }
  }
}

// y[R rows, columns of kBf16Vectors vectors] over `steps` tiles. a: rows of tiles of x; b: pairs of W^T.
template <int R>
SELFEDIT_INLINE void Bf16Tile(const float* a, const uint16_t* b, int64_t steps, float* y, int64_t ldy,
                              int64_t columns, bool add) {
  constexpr int W = kWidth<float>;
  Vec<float> sum[R][kBf16Vectors];
  SELFEDIT_UNROLL
  for (int r = 0; r < R; ++r) {
    SELFEDIT_UNROLL
    for (int v = 0; v < kBf16Vectors; ++v) {
      sum[r][v] = add && v * W < columns ? LoadUpTo(y + r * ldy + v * W, columns - v * W) : Vec<float>{};
    }
  }
  for (int64_t s = 0; s < steps; ++s, a += kBf16Tile, b += 2 * kBf16Tile) {
    for (int64_t p = 0; p < 16; ++p) {
      Vec<float> even[kBf16Vectors], odd[kBf16Vectors];
      SELFEDIT_UNROLL
      for (int v = 0; v < kBf16Vectors; ++v) {
        // 16 columns of a pair of k lie in a row; the next 16 in the next tile.
        const int64_t at = v * W / 16 * kBf16Tile + p * 32 + v * W % 16 * 2;
        const auto bits = reinterpret_cast<BitVec<float>>(Load(reinterpret_cast<const float*>(b + at)));
        even[v] = reinterpret_cast<Vec<float>>(bits << 16);
        odd[v] = reinterpret_cast<Vec<float>>(bits & 0xFFFF0000u);
      }
      SELFEDIT_UNROLL
      for (int r = 0; r < R; ++r) {
        const Vec<float> first = Splat(a[r * kBf16Step + 2 * p]),
                         second = Splat(a[r * kBf16Step + 2 * p + 1]);
        SELFEDIT_UNROLL
        for (int v = 0; v < kBf16Vectors; ++v) sum[r][v] = MultiplyAdd<float>(first, even[v], sum[r][v]);
        SELFEDIT_UNROLL
        for (int v = 0; v < kBf16Vectors; ++v) sum[r][v] = MultiplyAdd<float>(second, odd[v], sum[r][v]);
      }
    }
  }
  SELFEDIT_UNROLL
  for (int r = 0; r < R; ++r) {
    SELFEDIT_UNROLL
    for (int v = 0; v < kBf16Vectors; ++v) {
      if (v * W < columns) StoreUpTo(y + r * ldy + v * W, sum[r][v], columns - v * W);
    }
  }
}

void Bf16ProductBlock(const Bf16Block& g) {
  constexpr int64_t kColumns = kBf16Vectors * kWidth<float>;
  const auto* operand = static_cast<const float*>(g.operand);
  for (int64_t panel = g.first_panel; panel < g.last_panel; ++panel) {
    const uint16_t* tiles = g.weight + panel * g.steps * 2 * kBf16Tile;
    const int64_t last = Min(g.out, (panel + 1) * kBf16Panel);
    int64_t rows;
    for (int64_t i = 0; i < g.rows; i += rows) {
      rows = Min(kBf16BlockRows, g.rows - i);
      const float* a = operand + i / kBf16Rows * g.steps * kBf16Tile + i % kBf16Rows * kBf16Step;
      for (int64_t j = panel * kBf16Panel; j < last; j += kColumns) {
        const uint16_t* b = tiles + j % kBf16Panel / 16 * kBf16Tile + j % 16 * 2;
        float* y = g.y + i * g.ldy + j;
        WithRows<kBf16BlockRows>(rows, [&](auto r) {
          Bf16Tile<decltype(r)::value>(a, b, g.steps, y, g.ldy, last - j, g.accumulate);
        });
      }
    }
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
