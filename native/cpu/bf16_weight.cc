#include <algorithm>
#include <cstring>

#include "bf16_gemm.h"
#include "bf16_gemm_variants.h"
#include "packed_memory.h"

namespace selfedit::cpu {
namespace {

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

// A tile of W^T, 32 steps of k by 16 columns, of which `depth` and `columns` exist; pairs of k interleaved.
void PackTile(const uint16_t* w, int64_t row, int64_t column, int64_t columns, int64_t depth,
              uint16_t* tile) {
  if (columns < 16 || depth < kBf16Step) std::memset(tile, 0, kBf16Tile * sizeof(uint16_t));
  if (column == 1) {  // k runs along the rows of w
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t k = 0; k < depth; ++k) tile[k / 2 * 32 + c * 2 + k % 2] = w[c * row + k];
    }
    return;
  }
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t c = 0; c < columns; ++c) tile[k / 2 * 32 + c * 2 + k % 2] = w[k * column + c];
  }
}

}  // namespace

int64_t Bf16Weight::bytes() const {
  return Parts(out_, kBf16Panel) * Parts(in_, kBf16Step) * 2 * kBf16Tile *
         static_cast<int64_t>(sizeof(uint16_t));
}

Bf16Weight::Bf16Weight(const uint16_t* w, int64_t out, int64_t in, bool transposed) : out_(out), in_(in) {
  const int64_t panels = Parts(out, kBf16Panel), steps = Parts(in, kBf16Step);
  packed_ = std::static_pointer_cast<uint16_t>(PackedMemory(bytes()));
  uint16_t* packed = packed_.get();
  const int64_t row = transposed ? 1 : in, column = transposed ? out : 1;
#pragma omp parallel for schedule(static) if (panels * steps > 64)
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t tile = 0; tile < 2 * steps; ++tile) {
      const int64_t o = panel * kBf16Panel + tile % 2 * 16, k = tile / 2 * kBf16Step;
      PackTile(w + o * row + k * column, row, column, std::clamp<int64_t>(out - o, 0, 16),
               std::min(kBf16Step, in - k), packed + (panel * steps * 2 + tile) * kBf16Tile);
    }
  }
}

}  // namespace selfedit::cpu
