#include "gemm.h"

#include "gemm_variants.h"

namespace selfedit::cpu {

bool Runs(const GemmVariant& variant) {
  if (variant.float32 == nullptr) return false;
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
  if (&variant == &kGemmAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("fma");
  }
  if (&variant == &kGemmAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &variant == &kGemmPortable;
}

namespace {

const GemmVariant& Best() {
  static const GemmVariant& best = Runs(kGemmAvx512) ? kGemmAvx512
                                   : Runs(kGemmAvx2) ? kGemmAvx2
                                                     : kGemmPortable;
  return best;
}

}  // namespace

template <>
void Gemm<float>(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                 const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                 int64_t ldc) {
  Best().float32(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <>
void Gemm<double>(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
                  int64_t ldc) {
  Best().float64(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace selfedit::cpu
