// The float32 product without matrix units: plain sums over k, for machines and tests that compare.
#include <algorithm>

#include "f32_gemm_variants.h"

namespace selfedit::cpu::portable {
namespace {

void Product(const F32Task& g) {
  const int64_t steps = (g.in + kF32Step - 1) / kF32Step;
  for (int64_t panel = g.first_panel; panel < g.last_panel; ++panel) {
    const float* w = g.weight + panel * steps * kF32Block;
    const int64_t column = panel * kF32Panel, columns = std::min(kF32Panel, g.out - column);
    for (int64_t i = 0; i < g.rows; ++i) {
      float sum[kF32Panel] = {};
      float* y = g.y + i * g.ldy + column;
      if (g.accumulate) std::copy_n(y, columns, sum);
      for (int64_t k = 0; k < g.in; ++k) {
        for (int64_t j = 0; j < kF32Panel; ++j) sum[j] += g.x[i * g.ldx + k] * w[k * kF32Panel + j];
      }
      std::copy_n(sum, columns, y);
    }
  }
}

}  // namespace
const F32Set kF32 = {"portable", Product};
}  // namespace selfedit::cpu::portable
