#include "gemm.h"

#include "gemm_variants.h"
#include "kernels.h"

namespace selfedit::cpu {
namespace {

// Of the set that dispatch.h has chosen or was told to use.
const GemmSet& Selected() {
#if defined(__x86_64__)
  const char* name = SimdName();
  if (name[0] == 'a') return name[3] == '5' ? avx512::kGemm : avx2::kGemm;  // "avx512", "avx2"
#endif
  return portable::kGemm;
}

}  // namespace

template <>
void Gemm<float>(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                 const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                 int64_t ldc) {
  Selected().f32(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <>
void Gemm<double>(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
                  int64_t ldc) {
  Selected().f64(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace selfedit::cpu
