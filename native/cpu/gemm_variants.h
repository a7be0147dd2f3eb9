// The product once for every instruction set. gemm.cc takes the best one that the processor has; tests take
// each.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

template <typename T>
using GemmFunction = void (*)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha,
                              const T* a, int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

// Functions are null where the compiler could not make them.
struct GemmVariant {
  const char* name;
  GemmFunction<float> float32;
  GemmFunction<double> float64;
};

extern const GemmVariant kGemmAvx512, kGemmAvx2, kGemmPortable;

// Whether this processor (and operating system) can run the variant.
bool Runs(const GemmVariant& variant);

}  // namespace selfedit::cpu
