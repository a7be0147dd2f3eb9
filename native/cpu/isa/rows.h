// Normalisation, rotation and gating: elementwise or one row at a time.
#pragma once
#include "../kernels.h"
#include "math.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kSerialValues = 16384;  // below this, waking the other threads costs more than it saves

template <typename T>
void RmsNormForward(const T* x, const T* w, int64_t n, int64_t c, T eps, T* y, T* rstd) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (n * c > kSerialValues)
  for (int64_t i = 0; i < n; ++i) {
    const T* row = x + i * c;
    Vec<T> sum{}, sum2{};
    int64_t j = 0;
    for (; j + 2 * W <= c; j += 2 * W) {
      const Vec<T> a = Load(row + j), b = Load(row + j + W);
      sum += a * a;
      sum2 += b * b;
    }
    for (; j < c; j += W) {
      const Vec<T> a = LoadUpTo(row + j, c - j);
      sum += a * a;
    }
    const T r = 1 / ScalarSqrt(ReduceSum<T>(sum + sum2) / static_cast<T>(c) + eps);
    for (j = 0; j < c; j += W) {
      StoreUpTo<T>(y + i * c + j, LoadUpTo(row + j, c - j) * r * LoadUpTo(w + j, c - j), c - j);
    }
    if (rstd) rstd[i] = r;
  }
}

// dx = rstd (w dy - x rstd^2 mean(w dy x))
template <typename T>
void RmsNormBackward(const T* x, const T* w, const T* rstd, const T* dy, int64_t n, int64_t c,
                     bool accumulate, T* dx) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (n * c > kSerialValues)
  for (int64_t i = 0; i < n; ++i) {
    const T *row = x + i * c, *grad = dy + i * c;
    T* to = dx + i * c;
    Vec<T> sum{};
    for (int64_t j = 0; j < c; j += W) {
      sum += LoadUpTo(row + j, c - j) * LoadUpTo(w + j, c - j) * LoadUpTo(grad + j, c - j);
    }
    const T r = rstd[i], shrink = ReduceSum<T>(sum) / static_cast<T>(c) * r * r * r;
    for (int64_t j = 0; j < c; j += W) {
      const Vec<T> g =
          LoadUpTo(grad + j, c - j) * LoadUpTo(w + j, c - j) * r - LoadUpTo(row + j, c - j) * shrink;
      StoreUpTo<T>(to + j, accumulate ? LoadUpTo(to + j, c - j) + g : g, c - j);
    }
  }
}

template <typename T>
void Rope(T* x, const int32_t* position, const T* cos, const T* sin, int64_t n, int64_t heads, int64_t d,
          int sign) {
  constexpr int W = kWidth<T>;
  const int64_t half = d / 2;
  const T direction = static_cast<T>(sign);
#pragma omp parallel for schedule(static) if (n * heads * d > kSerialValues)
  for (int64_t i = 0; i < n; ++i) {
    const T *cos_row = cos + position[i] * half, *sin_row = sin + position[i] * half;
    for (int64_t j = 0; j < half; j += W) {
      const Vec<T> c = LoadUpTo(cos_row + j, half - j), s = LoadUpTo(sin_row + j, half - j) * direction;
      for (int64_t h = 0; h < heads; ++h) {
        T *low = x + (i * heads + h) * d + j, *high = low + half;
        const Vec<T> a = LoadUpTo(low, half - j), b = LoadUpTo(high, half - j);
        StoreUpTo<T>(low, a * c - b * s, half - j);
        StoreUpTo<T>(high, b * c + a * s, half - j);
      }
    }
  }
}

template <typename T>
void SwiGluForward(const T* gate, const T* up, int64_t count, T* y) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (count > kSerialValues)
  for (int64_t i = 0; i < count; i += W) {
    const Vec<T> x = LoadUpTo(gate + i, count - i);
    StoreUpTo<T>(y + i, x * Sigmoid<T>(x) * LoadUpTo(up + i, count - i), count - i);
  }
}

template <typename T>
void SwiGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (count > kSerialValues)
  for (int64_t i = 0; i < count; i += W) {
    const Vec<T> x = LoadUpTo(gate + i, count - i), g = LoadUpTo(dy + i, count - i);
    const Vec<T> s = Sigmoid<T>(x);
    const Vec<T> u = LoadUpTo(up + i, count - i);
    StoreUpTo<T>(dgate + i, g * u * s * (x * (T(1) - s) + T(1)), count - i);
    StoreUpTo<T>(dup + i, g * x * s, count - i);
  }
}

// GELU's tanh approximation is x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr double kTwiceRootTwoOverPi = 1.5957691216057308, kGeluCubic = 0.044715;

template <typename T>
SELFEDIT_INLINE Vec<T> GeluSigmoid(Vec<T> x) {
  return Sigmoid<T>(x * (x * x * T(kGeluCubic) + T(1)) * T(kTwiceRootTwoOverPi));
}

template <typename T>
void GeGluForward(const T* gate, const T* up, int64_t count, T* y) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (count > kSerialValues)
  for (int64_t i = 0; i < count; i += W) {
    const Vec<T> x = LoadUpTo(gate + i, count - i);
    StoreUpTo<T>(y + i, x * GeluSigmoid<T>(x) * LoadUpTo(up + i, count - i), count - i);
  }
}

template <typename T>
void GeGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (count > kSerialValues)
  for (int64_t i = 0; i < count; i += W) {
    const Vec<T> x = LoadUpTo(gate + i, count - i), g = LoadUpTo(dy + i, count - i);
    const Vec<T> s = GeluSigmoid<T>(x);
    const Vec<T> u = LoadUpTo(up + i, count - i);
    const Vec<T> slope = (x * x * T(3 * kGeluCubic) + T(1)) * T(kTwiceRootTwoOverPi);
    StoreUpTo<T>(dgate + i, g * u * s * (x * (T(1) - s) * slope + T(1)), count - i);
    StoreUpTo<T>(dup + i, g * x * s, count - i);
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
