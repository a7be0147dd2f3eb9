// Compiled with the flags of avx2 (CMakeLists.txt); run only where dispatch.cc finds it supported.
#if defined(__x86_64__)
#define SELFEDIT_ISA avx2
#include "gemm_variants.h"
#include "isa/gemm.h"

namespace selfedit::cpu::avx2 {
const GemmSet kGemm = {GemmOf<float>, GemmOf<double>};
}
#endif
