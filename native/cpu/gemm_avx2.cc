// Compiled for AVX2 and FMA (CMakeLists.txt); empty where the compiler cannot.
#include "gemm_variants.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "gemm_kernels.h"

namespace selfedit::cpu {
const GemmVariant kGemmAvx2 = {"avx2", avx2::Gemm<float>, avx2::Gemm<double>};
}  // namespace selfedit::cpu
#else
namespace selfedit::cpu {
const GemmVariant kGemmAvx2 = {"avx2", nullptr, nullptr};
}  // namespace selfedit::cpu
#endif
