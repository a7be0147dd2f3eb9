// Shapes of the tile registers (AMX), as every product here uses them.
#pragma once
#include <immintrin.h>

#include "../bf16_gemm_variants.h"
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// Tiles 0 and 1: y of the upper rows, left and right; 2 and 3: of the lower rows; 4 and 5: x, upper and
// lower; 6 and 7: W^T, left and right.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

class Tiles {
 public:
  ~Tiles() { _tile_release(); }  // a thread with live tiles is slower to switch
  // So many rows of x above, and below.
  void Shape(int64_t upper, int64_t lower) {
    if (upper == upper_ && lower == lower_) return;
    upper_ = upper;
    lower_ = lower;
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      const bool above = t == 0 || t == 1 || t == 4;
      config.row_bytes[t] = 64;
      config.rows[t] = static_cast<uint8_t>(t >= 6 ? kBf16Rows : above ? upper : lower);
    }
    _tile_loadconfig(&config);
  }

 private:
  int64_t upper_ = 0, lower_ = 0;
};

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
