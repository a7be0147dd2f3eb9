// Compiled with the flags of avx512 (CMakeLists.txt); run only where dispatch.cc finds it supported.
#if defined(__x86_64__)
#define SELFEDIT_ISA avx512
#include "isa/bf16_gemm.h"

namespace selfedit::cpu::avx512 {
const Bf16Set kBf16 = {"avx512", sizeof(float), true, PackBf16Operand, Bf16ProductBlock};
}
#endif
