// Compiled for the oldest processor that the build aims at.
#include "gemm_kernels.h"
#include "gemm_variants.h"

namespace selfedit::cpu {
const GemmVariant kGemmPortable = {"portable", SELFEDIT_GEMM_SET::Gemm<float>,
                                   SELFEDIT_GEMM_SET::Gemm<double>};
}  // namespace selfedit::cpu
