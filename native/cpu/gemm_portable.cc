// Compiled for the oldest processor that the build aims at.
#define SELFEDIT_ISA portable
#include "gemm_variants.h"
#include "isa/gemm.h"

namespace selfedit::cpu::portable {
const GemmSet kGemm = {GemmOf<float>, GemmOf<double>};
}
