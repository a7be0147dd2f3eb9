// AdamW in torch's order of operations (torch/optim/adamw.py, single-tensor path).
#pragma once
#include "../kernels.h"
#include "../scratch.h"
#include "math.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kOptimizerBlock =
    4096;  // fixed, so that the order of the norm's sum does not know the threads

template <typename T>
double SquaredNorm(const T* grad, int64_t count) {
  constexpr int W = kWidth<double>;
  Vec<double> sum{}, sum2{};
  int64_t i = 0;
  for (; i + 2 * W <= count; i += 2 * W) {
    Vec<double> a, b;
    for (int t = 0; t < W; ++t) a[t] = grad[i + t], b[t] = grad[i + W + t];
    sum += a * a;
    sum2 += b * b;
  }
  double total = ReduceSum<double>(sum + sum2);
  for (; i < count; ++i) total += static_cast<double>(grad[i]) * grad[i];
  return total;
}

template <typename T>
double AdamW(T* value, T* first_moment, T* second_moment, const T* grad, const AdamWStep& s) {
  const int64_t blocks = (s.count + kOptimizerBlock - 1) / kOptimizerBlock;
  double* partial = static_cast<double*>(Scratch(blocks * sizeof(double)));
#pragma omp parallel for schedule(static) if (blocks > 4)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * kOptimizerBlock;
    partial[b] = SquaredNorm(grad + first, Min(kOptimizerBlock, s.count - first));
  }
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  const double norm = __builtin_sqrt(total);

  double factor = 1;
  if (s.clip > 0 && s.clip / (norm + 1e-6) < 1) factor = s.clip / (norm + 1e-6);
  const T shrink = static_cast<T>(factor), decay = static_cast<T>(1 - s.learning_rate * s.weight_decay);
  const T w1 = static_cast<T>(1 - s.beta1), b2 = static_cast<T>(s.beta2), w2 = static_cast<T>(1 - s.beta2);
  const T root = static_cast<T>(__builtin_sqrt(1 - __builtin_pow(s.beta2, s.step)));
  const T eps = static_cast<T>(s.epsilon);
  const T size = static_cast<T>(-s.learning_rate / (1 - __builtin_pow(s.beta1, s.step)));
#pragma omp parallel for schedule(static) if (blocks > 4)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * kOptimizerBlock, count = Min(kOptimizerBlock, s.count - first);
    T* __restrict x = value + first, * __restrict m = first_moment + first, * __restrict v = second_moment + first;
    const T* __restrict g = grad + first;
    for (int64_t i = 0; i < count; ++i) {
      const T gi = g[i] * shrink;
      const T mi = m[i] + (gi - m[i]) * w1;
      const T vi = v[i] * b2 + w2 * gi * gi;
      m[i] = mi;
      v[i] = vi;
      x[i] = x[i] * decay + size * mi / (ScalarSqrt(vi) / root + eps);
    }
  }
  return norm;
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
