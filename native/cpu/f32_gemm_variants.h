// The float32 product once for every instruction set (f32_gemm_<set>.cc); f32_gemm.cc takes the one in use.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

constexpr int64_t kF32Panel = 32;  // columns of a panel of the packed matrix
constexpr int64_t kF32Step = 32;   // elements of k of a block of it
constexpr int64_t kF32Block = kF32Panel * kF32Step;

struct F32Task {
  const float* weight;  // F32Weight::data()
  const float* x;
  int64_t ldx, rows, in, out;
  int64_t first_panel, last_panel;
  float* y;
  int64_t ldy;
  bool accumulate;
};

struct F32Set {
  const char* name;
  // y of the rows and panels of the task; uses this thread's scratch.
  void (*product)(const F32Task& task);
};

namespace portable {
extern const F32Set kF32;
}
#if defined(__x86_64__)
// Null when the compiler lacks it.
namespace amx {
extern const F32Set* const kF32;
}
#endif

}  // namespace selfedit::cpu
