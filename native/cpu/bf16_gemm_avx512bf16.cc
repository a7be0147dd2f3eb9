// The bfloat16 product on vdpbf16ps, which adds two products to each float32 lane. Element (i, j) is one
// chain over k. Compiled with the flags of avx512 and of the bfloat16 instructions (CMakeLists.txt).
#if defined(__x86_64__)
#include "bf16_gemm_variants.h"
#if defined(__AVX512BF16__)
#define SELFEDIT_ISA avx512bf16
#include "isa/bf16_pack.h"
#include "isa/row_count.h"

namespace selfedit::cpu::avx512bf16 {
namespace {

constexpr int kRows = 8;  // of x in one pass, beside two vectors of columns

// y[R rows, one panel] over `steps` tiles.
template <int R>
SELFEDIT_INLINE void Tile(const uint16_t* a, const uint16_t* b, int64_t steps, float* y, int64_t ldy,
                          int64_t columns, bool add) {
  const auto mask = [&](int v) {
    const int64_t left = columns - 16 * v;
    return static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1 << left) - 1);
  };
  const __mmask16 masks[2] = {mask(0), mask(1)};
  __m512 sum[R][2];
  SELFEDIT_UNROLL
  for (int r = 0; r < R; ++r) {
    SELFEDIT_UNROLL
    for (int v = 0; v < 2; ++v) {
      sum[r][v] = add ? _mm512_maskz_loadu_ps(masks[v], y + r * ldy + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t s = 0; s < steps; ++s, a += kBf16Tile, b += 2 * kBf16Tile) {
    for (int64_t p = 0; p < 16; ++p) {
      const auto b0 = reinterpret_cast<__m512bh>(_mm512_load_si512(b + p * 32));
      const auto b1 = reinterpret_cast<__m512bh>(_mm512_load_si512(b + kBf16Tile + p * 32));
      SELFEDIT_UNROLL
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, a + r * kBf16Step + 2 * p, sizeof pair);
        const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], b0, both);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], b1, both);
      }
    }
  }
  SELFEDIT_UNROLL
  for (int r = 0; r < R; ++r) {
    SELFEDIT_UNROLL
    for (int v = 0; v < 2; ++v) _mm512_mask_storeu_ps(y + r * ldy + 16 * v, masks[v], sum[r][v]);
  }
}

void Product(const Bf16Block& g) {
  const auto* operand = static_cast<const uint16_t*>(g.operand);
  for (int64_t panel = g.first_panel; panel < g.last_panel; ++panel) {
    const int64_t column = panel * kBf16Panel, columns = Min(kBf16Panel, g.out - column);
    const uint16_t* b = g.weight + panel * g.steps * 2 * kBf16Tile;
    int64_t rows;
    for (int64_t i = 0; i < g.rows; i += rows) {
      rows = Min(kRows, g.rows - i);
      const uint16_t* a = operand + i / kBf16Rows * g.terms * g.steps * kBf16Tile + i % kBf16Rows * kBf16Step;
      float* y = g.y + i * g.ldy + column;
      for (int term = 0; term < g.terms; ++term, a += g.steps * kBf16Tile) {
        const bool add = g.accumulate || term > 0;
        WithRows<kRows>(rows,
                        [&](auto r) { Tile<decltype(r)::value>(a, b, g.steps, y, g.ldy, columns, add); });
      }
    }
  }
}

const Bf16Set kSet = {"avx512bf16", sizeof(uint16_t), false, PackBf16Operand, Product};

}  // namespace
const Bf16Set* const kBf16 = &kSet;
}  // namespace selfedit::cpu::avx512bf16
#else
namespace selfedit::cpu::avx512bf16 {
const Bf16Set* const kBf16 = nullptr;
}
#endif
#endif
