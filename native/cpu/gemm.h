// Small matrix products for the segmented low-rank path: serial (the caller parallelises over segments and
// row blocks), no allocation, no torch header. Each element of C is summed over k in one fixed order that
// depends on n, k and the transposition only, never on m, on the address or on the neighbouring rows: a row's
// result does not depend on its batch mates.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

// C[m, n] = alpha * op(A)[m, k] op(B)[k, n] + beta * C, row-major with leading dimensions (elements between
// rows). transpose_a: A is stored [k, m]; transpose_b: B is stored [n, k]. beta 0 overwrites C (NaN in C is
// ignored).
template <typename T>
void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
          int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

}  // namespace selfedit::cpu
