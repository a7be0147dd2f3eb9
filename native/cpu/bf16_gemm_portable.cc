#define SELFEDIT_ISA portable
#include "isa/bf16_gemm.h"

namespace selfedit::cpu::portable {
const Bf16Set kBf16 = {"portable", sizeof(float), true, PackBf16Operand, Bf16ProductBlock};
}
