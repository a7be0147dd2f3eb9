// The bfloat16 product once for every instruction set (bf16_gemm_<set>.cc); bf16_gemm.cc takes the one in
// use.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

constexpr int64_t kBf16Panel = 32;  // columns of a panel of the packed matrix, as two tiles
constexpr int64_t kBf16Step = 32;   // elements of k in a tile
constexpr int64_t kBf16Rows = 16;   // rows of a tile
constexpr int64_t kBf16Tile = 512;  // elements of a tile: 16 x 32 of x, 32 x 16 of W^T

struct Bf16Block {
  const uint16_t* weight;  // Bf16Weight::data()
  const void* operand;     // of this variant's pack
  int64_t steps;           // tiles along k
  int64_t rows, out;
  int terms;
  int64_t first_panel, last_panel;
  float* y;
  int64_t ldy;
  bool accumulate;
};

struct Bf16Set {
  const char* name;
  int64_t operand_bytes;  // of one element of one term of x
  bool one_operand;       // the terms are added up: the operand has the size of a single one
  // Rows of x to the operand: [rows / 16][terms][steps] tiles [16][32], zero beyond `in`. Rows of the last
  // tile that do not exist stay undefined.
  void (*pack)(const float* x, int64_t ldx, int64_t rows, int64_t in, int terms, void* operand);
  // y of the rows and panels of the block.
  void (*product)(const Bf16Block& block);
};

// Whether the processor has AMX with bfloat16 and the system gave this process its tiles.
bool HasMatrixUnits();

namespace portable {
extern const Bf16Set kBf16;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Bf16Set kBf16;
}
namespace avx512 {
extern const Bf16Set kBf16;
}
// Null when the compiler lacks them.
namespace avx512bf16 {
extern const Bf16Set* const kBf16;
}
namespace amx {
extern const Bf16Set* const kBf16;
}
#endif

}  // namespace selfedit::cpu
