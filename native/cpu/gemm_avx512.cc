// Compiled for AVX-512 (CMakeLists.txt); empty where the compiler cannot.
#include "gemm_variants.h"

#if defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined operand inside its own intrinsics for an uninitialised variable.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "gemm_kernels.h"

namespace selfedit::cpu {
const GemmVariant kGemmAvx512 = {"avx512", avx512::Gemm<float>, avx512::Gemm<double>};
}  // namespace selfedit::cpu
#else
namespace selfedit::cpu {
const GemmVariant kGemmAvx512 = {"avx512", nullptr, nullptr};
}  // namespace selfedit::cpu
#endif
