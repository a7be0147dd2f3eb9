// Rows of logits: log-probabilities, entropy, divergence and their gradients.
#pragma once
#include "../kernels.h"
#include "math.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kSpan = 1024;  // logits between two corrections of the running maximum
constexpr int64_t kPiece =
    256;  // logits whose exponentials, all at most 1, are added in lanes of T before double takes over
constexpr int64_t kGroup = 64;  // logits that share one entry of the list of maxima
template <typename T>
constexpr T kNone =
    sizeof(T) == 4 ? T(-3e38) : T(-1e308);  // stands for -inf, so that differences stay defined

template <typename T>
struct RowStats {
  T maximum;
  double sum;       // of exp(z - maximum)
  double weighted;  // of exp(z - maximum) (z - maximum), where asked for
  double Lse() const { return maximum + __builtin_log(sum); }
};

// Statistics of z = inverse * row. NaN or +inf anywhere makes the sum NaN; all -inf makes it 0.
// maxima, if not null: the largest z of every kGroup logits.
template <typename T, bool kWeighted>
RowStats<T> Stats(const T* row, int64_t V, T inverse, T* maxima) {
  constexpr int W = kWidth<T>;
  RowStats<T> s{kNone<T>, 0, 0};
  for (int64_t start = 0; start < V; start += kSpan) {
    const int64_t end = Min(V, start + kSpan);
    T top = s.maximum;
    for (int64_t g = start; g < end; g += kGroup) {
      const int64_t stop = Min(end, g + kGroup);
      Vec<T> most = Splat(kNone<T>);
      int64_t j = g;
      for (; j + W <= stop; j += W) most = MaxOf<T>(Load(row + j) * inverse, most);
      if (j < stop) {
        const Vec<T> z = LoadPart(row + j, stop - j) * inverse;
        most = Iota<T>() < static_cast<typename Simd<T>::Int>(stop - j) ? MaxOf<T>(z, most) : most;
      }
      const T m = ReduceMax<T>(most);
      if (maxima) maxima[g / kGroup] = m;
      top = m > top ? m : top;
    }
    if (top > s.maximum) {
      const double fall = static_cast<double>(s.maximum) - top;
      if (s.sum > 0) {
        const double factor = __builtin_exp(fall);
        s.weighted = (s.weighted + s.sum * fall) * factor;
        s.sum *= factor;
      }
      s.maximum = top;
    }
    WideSum<T> wide, weighted;
    const auto exponential = [&](Vec<T> z) {
      const Vec<T> e = Exp(z);
      if constexpr (kWeighted) weighted.Add(e == T(0) ? Vec<T>{} : e * z);
      return e;
    };
    for (int64_t piece = start; piece < end; piece += kPiece) {
      const int64_t stop = Min(end, piece + kPiece);
      Vec<T> sum{}, sum2{};
      int64_t j = piece;
      for (; j + 2 * W <= stop; j += 2 * W) {
        sum += exponential(Load(row + j) * inverse - s.maximum);
        sum2 += exponential(Load(row + j + W) * inverse - s.maximum);
      }
      for (; j < stop; j += W) {
        const IntVec<T> real = Iota<T>() < static_cast<typename Simd<T>::Int>(Min(W, stop - j));
        // Lanes behind the end count as -inf.
        const Vec<T> z = LoadUpTo(row + j, stop - j) * inverse - s.maximum;
        sum += exponential(real ? z : Splat(static_cast<T>(-__builtin_inf())));
      }
      wide.Add(sum);
      wide.Add(sum2);
    }
    s.sum += wide.Total();
    if constexpr (kWeighted) s.weighted += weighted.Total();
  }
  return s;
}

template <typename T>
void LogSoftmaxRows(const T* logits, const int32_t* target, int64_t rows, int64_t V, T temperature,
                    T* logprob, T* lse, T* entropy) {
  const T inverse = 1 / temperature;
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = logits + r * V;
    const RowStats<T> s =
        entropy ? Stats<T, true>(row, V, inverse, nullptr) : Stats<T, false>(row, V, inverse, nullptr);
    const double l = s.Lse();
    const T z = row[target[r]] * inverse;
    logprob[r] = static_cast<T>(z - l);
    lse[r] = static_cast<T>(l);
    if (entropy) entropy[r] = static_cast<T>(__builtin_log(s.sum) - s.weighted / s.sum);
  }
}

template <typename T>
void LogSoftmaxRowsBackward(T* logits, const int32_t* target, const T* lse, const T* g, const T* e,
                            const T* entropy, int64_t rows, int64_t V, T temperature) {
  constexpr int W = kWidth<T>;
  const T inverse = 1 / temperature;
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t r = 0; r < rows; ++r) {
    T* row = logits + r * V;
    const int64_t chosen = target[r];
    const T gain = g[r] * inverse, l = lse[r];
    const T hit = gain - gain * ScalarExp(row[chosen] * inverse - l);
    if (!e || e[r] == 0) {
      for (int64_t j = 0; j < V; j += W) {
        const Vec<T> p = Exp(LoadUpTo(row + j, V - j) * inverse - l);
        StoreUpTo<T>(row + j, p * -gain, V - j);
      }
      row[chosen] = hit;
      continue;
    }
    const T weight = e[r] * inverse, mean = entropy[r];
    const T logp = row[chosen] * inverse - l;
    const T chosen_value = hit - weight * (ScalarExp(logp) * (logp + mean));
    for (int64_t j = 0; j < V; j += W) {
      const Vec<T> z = LoadUpTo(row + j, V - j) * inverse - l;
      const Vec<T> p = Exp(z);
      const Vec<T> x = p * -gain - p * (z + mean) * weight;
      StoreUpTo<T>(row + j, p == T(0) ? Vec<T>{} : x, V - j);
    }
    row[chosen] = chosen_value;
  }
}

// sum q - p + p x with x = log(p / q): q - p adds nothing in exact arithmetic, but with it every term is of
// second order in x, so that rounding of the normalisers does not swamp small divergences. A series serves
// where x is small.
template <typename T>
SELFEDIT_INLINE Vec<T> DivergenceTerm(Vec<T> p, Vec<T> q, Vec<T> x) {
  constexpr T kSmall = sizeof(T) == 4 ? T(0.25) : T(1e-3);
  const Vec<T> far = (q - p) + p * x;
  const Vec<T> near =
      p * (x * x) * (T(0.5) - x * (T(1) / 6 - x * (T(1) / 24 - x * (T(1) / 120 - x * (T(1) / 720)))));
  const Vec<T> term = ((x < kSmall) & (x > -kSmall)) ? near : far;
  return p == T(0) ? q : term;
}

template <typename T>
void KlRows(const T* a, const T* b, int64_t rows, int64_t V, T* kl) {
  constexpr int W = kWidth<T>;
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const T *x = a + r * V, *y = b + r * V;
    const RowStats<T> sa = Stats<T, false>(x, V, 1, nullptr), sb = Stats<T, false>(y, V, 1, nullptr);
    const T shift = static_cast<T>(sa.Lse() - sb.Lse());
    const T scale_a = static_cast<T>(1 / sa.sum), scale_b = static_cast<T>(1 / sb.sum);
    WideSum<T> sum;
    for (int64_t j = 0; j < V; j += W) {
      const int64_t left = V - j;
      const Vec<T> u = LoadUpTo(x + j, left), v = LoadUpTo(y + j, left);
      const Vec<T> term =
          DivergenceTerm<T>(Exp(u - sa.maximum) * scale_a, Exp(v - sb.maximum) * scale_b, (u - v) - shift);
      sum.Add(Iota<T>() < static_cast<typename Simd<T>::Int>(Min(W, left)) ? term : Vec<T>{});
    }
    kl[r] = static_cast<T>(sum.Total());
  }
}

template <typename T>
void KlRowsBackward(T* a, const T* b, const T* weight, int64_t rows, int64_t V, T* kl) {
  constexpr int W = kWidth<T>;
  KlRows<T>(a, b, rows, V, kl);
#pragma omp parallel for schedule(static) if (rows > 1)
  for (int64_t r = 0; r < rows; ++r) {
    T* x = a + r * V;
    const T* y = b + r * V;
    const RowStats<T> sa = Stats<T, false>(x, V, 1, nullptr), sb = Stats<T, false>(y, V, 1, nullptr);
    const T shift = static_cast<T>(sa.Lse() - sb.Lse()), scale = static_cast<T>(1 / sa.sum);
    const T mean = kl[r], gain = weight[r];
    for (int64_t j = 0; j < V; j += W) {
      const Vec<T> u = LoadUpTo(x + j, V - j), v = LoadUpTo(y + j, V - j);
      const Vec<T> p = Exp(u - sa.maximum) * scale;
      const Vec<T> d = p * gain * ((u - v) - shift - mean);
      StoreUpTo<T>(x + j, p == T(0) ? Vec<T>{} : d, V - j);
    }
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
