// Plain versions of every kernel: correct first, so that the engine can link. Replaced by the vectorised files.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../core/philox.h"
#include "kernels.h"

namespace selfedit::cpu {

const char* SimdName() { return "portable"; }

template <typename T>
void AttentionForward(const T* q, const T* k, const T* v, const int32_t* offsets, int64_t documents, int64_t H,
                      int64_t G, int64_t d, T scale, T* out, T* lse) {
  const int64_t group = H / G;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t t = 0; t < documents; ++t) {
    for (int64_t h = 0; h < H; ++h) {
      std::vector<T> p(offsets[t + 1] - offsets[t]);
      for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
        const T* qi = q + (i * H + h) * d;
        T* o = out + (i * H + h) * d;
        T max = -std::numeric_limits<T>::infinity(), sum = 0;
        for (int64_t j = offsets[t]; j <= i; ++j) {
          T s = 0;
          for (int64_t c = 0; c < d; ++c) s += qi[c] * k[(j * G + h / group) * d + c];
          p[j - offsets[t]] = s * scale;
          max = std::max(max, s * scale);
        }
        for (int64_t c = 0; c < d; ++c) o[c] = 0;
        for (int64_t j = offsets[t]; j <= i; ++j) {
          const T e = std::exp(p[j - offsets[t]] - max);
          sum += e;
          for (int64_t c = 0; c < d; ++c) o[c] += e * v[(j * G + h / group) * d + c];
        }
        for (int64_t c = 0; c < d; ++c) o[c] /= sum;
        if (lse) lse[i * H + h] = max + std::log(sum);
      }
    }
  }
}

template <typename T>
void AttentionBackward(const T* q, const T* k, const T* v, const T* out, const T* lse, const T* dout,
                       const int32_t* offsets, int64_t documents, int64_t H, int64_t G, int64_t d, T scale, T* dq,
                       T* dk, T* dv) {
  const int64_t group = H / G;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t t = 0; t < documents; ++t) {
    for (int64_t g = 0; g < G; ++g) {
      for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i)
        for (int64_t c = 0; c < d; ++c) dk[(i * G + g) * d + c] = dv[(i * G + g) * d + c] = 0;
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
          const int64_t row = (i * H + h) * d;
          T delta = 0;
          for (int64_t c = 0; c < d; ++c) delta += out[row + c] * dout[row + c], dq[row + c] = 0;
          for (int64_t j = offsets[t]; j <= i; ++j) {
            const int64_t key = (j * G + g) * d;
            T s = 0, dp = 0;
            for (int64_t c = 0; c < d; ++c) s += q[row + c] * k[key + c], dp += dout[row + c] * v[key + c];
            const T p = std::exp(s * scale - lse[i * H + h]);
            const T ds = p * (dp - delta) * scale;
            for (int64_t c = 0; c < d; ++c) {
              dq[row + c] += ds * k[key + c];
              dk[key + c] += ds * q[row + c];
              dv[key + c] += p * dout[row + c];
            }
          }
        }
      }
    }
  }
}

template <typename T>
void AttentionDecode(const T* q, const T* const* prefix_k, const T* const* prefix_v, const int32_t* prefix_length,
                     const T* const* own_k, const T* const* own_v, const int32_t* own_length, int64_t rows, int64_t H,
                     int64_t G, int64_t d, T scale, T* out) {
  const int64_t group = H / G;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t first = prefix_length[b], total = first + own_length[b], g = h / group;
      std::vector<T> p(total);
      const T* qi = q + (b * H + h) * d;
      T* o = out + (b * H + h) * d;
      T max = -std::numeric_limits<T>::infinity(), sum = 0;
      for (int64_t j = 0; j < total; ++j) {
        const T* key = (j < first ? prefix_k[b] + j * G * d : own_k[b] + (j - first) * G * d) + g * d;
        T s = 0;
        for (int64_t c = 0; c < d; ++c) s += qi[c] * key[c];
        p[j] = s * scale;
        max = std::max(max, p[j]);
      }
      for (int64_t c = 0; c < d; ++c) o[c] = 0;
      for (int64_t j = 0; j < total; ++j) {
        const T* value = (j < first ? prefix_v[b] + j * G * d : own_v[b] + (j - first) * G * d) + g * d;
        const T e = std::exp(p[j] - max);
        sum += e;
        for (int64_t c = 0; c < d; ++c) o[c] += e * value[c];
      }
      for (int64_t c = 0; c < d; ++c) o[c] /= sum;
    }
  }
}

template <typename T>
void RmsNormForward(const T* x, const T* w, int64_t n, int64_t c, T eps, T* y, T* rstd) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) {
    T sum = 0;
    for (int64_t j = 0; j < c; ++j) sum += x[i * c + j] * x[i * c + j];
    const T r = 1 / std::sqrt(sum / c + eps);
    for (int64_t j = 0; j < c; ++j) y[i * c + j] = x[i * c + j] * r * w[j];
    if (rstd) rstd[i] = r;
  }
}

template <typename T>
void RmsNormBackward(const T* x, const T* w, const T* rstd, const T* dy, int64_t n, int64_t c, bool accumulate, T* dx) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) {
    T dot = 0;
    for (int64_t j = 0; j < c; ++j) dot += dy[i * c + j] * w[j] * x[i * c + j];
    const T r = rstd[i], f = dot * r * r * r / c;
    for (int64_t j = 0; j < c; ++j) {
      const T g = dy[i * c + j] * w[j] * r - x[i * c + j] * f;
      dx[i * c + j] = accumulate ? dx[i * c + j] + g : g;
    }
  }
}

template <typename T>
void Rope(T* x, const int32_t* position, const T* cos, const T* sin, int64_t n, int64_t heads, int64_t d, int sign) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      T* p = x + (i * heads + h) * d;
      for (int64_t j = 0; j < d / 2; ++j) {
        const T c = cos[position[i] * (d / 2) + j], s = sin[position[i] * (d / 2) + j] * sign;
        const T a = p[j], b = p[j + d / 2];
        p[j] = a * c - b * s;
        p[j + d / 2] = b * c + a * s;
      }
    }
  }
}

template <typename T>
void SwiGluForward(const T* gate, const T* up, int64_t count, T* y) {
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

template <typename T>
void SwiGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup) {
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) {
    const T x = gate[i], u = up[i], s = 1 / (1 + std::exp(-x));
    dgate[i] = dy[i] * u * s * (1 + x * (1 - s));
    dup[i] = dy[i] * x * s;
  }
}

template <typename T>
static double RowLse(const T* row, int64_t V, double inverse) {
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t j = 0; j < V; ++j) max = std::max(max, row[j] * inverse);
  for (int64_t j = 0; j < V; ++j) sum += std::exp(row[j] * inverse - max);
  return max + std::log(sum);
}

template <typename T>
void LogSoftmaxRows(const T* logits, const int32_t* target, int64_t rows, int64_t V, T temperature, T* logprob, T* lse,
                    T* entropy) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = logits + r * V;
    const double inverse = 1.0 / temperature, l = RowLse(row, V, inverse);
    lse[r] = l;
    logprob[r] = row[target[r]] * inverse - l;
    if (!entropy) continue;
    double h = 0;
    for (int64_t j = 0; j < V; ++j) {
      const double lp = row[j] * inverse - l, p = std::exp(lp);
      if (p > 0) h -= p * lp;
    }
    entropy[r] = h;
  }
}

template <typename T>
void LogSoftmaxRowsBackward(T* logits, const int32_t* target, const T* lse, const T* g, const T* e, const T* entropy,
                            int64_t rows, int64_t V, T temperature) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    T* row = logits + r * V;
    const double inverse = 1.0 / temperature;
    for (int64_t j = 0; j < V; ++j) {
      const double lp = row[j] * inverse - lse[r], p = std::exp(lp);
      double z = g[r] * ((j == target[r]) - p);
      if (e && p > 0) z -= e[r] * p * (lp + entropy[r]);
      row[j] = z * inverse;
    }
  }
}

template <typename T>
void KlRows(const T* a, const T* b, int64_t rows, int64_t V, T* kl) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const double la = RowLse(a + r * V, V, 1), lb = RowLse(b + r * V, V, 1);
    double sum = 0;
    for (int64_t j = 0; j < V; ++j) {
      const double lp = a[r * V + j] - la, p = std::exp(lp);
      if (p > 0) sum += p * (lp - (b[r * V + j] - lb));
    }
    kl[r] = sum;
  }
}

template <typename T>
void SampleRows(const T* logits, int64_t rows, int64_t V, const float* temperature, const float* top_p,
                const int32_t* top_k, const uint64_t* key, const int64_t* position, int32_t* token, float* logprob) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = logits + r * V;
    const double inverse = temperature[r] > 0 ? 1.0 / temperature[r] : 1.0, lse = RowLse(row, V, inverse);
    token[r] = -1;
    logprob[r] = std::numeric_limits<float>::quiet_NaN();
    if (!std::isfinite(lse)) continue;
    if (temperature[r] == 0) {
      token[r] = std::max_element(row, row + V) - row;
    } else {
      int64_t kept = V;
      std::vector<int32_t> order(V);
      std::iota(order.begin(), order.end(), 0);
      if (top_k[r] > 0 || top_p[r] < 1) {
        std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return row[x] > row[y]; });
        if (top_k[r] > 0) kept = std::min<int64_t>(V, top_k[r]);
        double total = 0, sum = 0;
        for (int64_t j = 0; j < kept; ++j) total += std::exp(row[order[j]] * inverse - lse);
        int64_t m = 0;
        while (top_p[r] < 1 && m < kept && sum < top_p[r] * total) sum += std::exp(row[order[m++]] * inverse - lse);
        if (top_p[r] < 1) kept = std::max<int64_t>(m, 1);
      }
      double best = -std::numeric_limits<double>::infinity();
      for (int64_t i = 0; i < kept; ++i) {
        const int32_t j = order[i];
        const float u = std::min(Philox(key[r], position[r], j / 4).v[j % 4] * 0x1p-32f + 0x1p-33f, 1 - 0x1p-24f);
        const double z = row[j] * inverse - std::log(-std::log1p(-u));
        if (z > best || (z == best && j < token[r])) best = z, token[r] = j;
      }
    }
    logprob[r] = row[token[r]] * inverse - lse;
  }
}

template <typename T>
double AdamW(T* value, T* first_moment, T* second_moment, const T* grad, const AdamWStep& s) {
  double sum = 0;
  for (int64_t i = 0; i < s.count; ++i) sum += static_cast<double>(grad[i]) * grad[i];
  const double norm = std::sqrt(sum);
  const T factor = s.clip > 0 ? std::min(1.0, s.clip / (norm + 1e-6)) : 1.0;
  const T decay = 1 - s.learning_rate * s.weight_decay, w1 = 1 - s.beta1, b2 = s.beta2, w2 = 1 - s.beta2;
  const T root = std::sqrt(1 - std::pow(s.beta2, s.step)), eps = s.epsilon;
  const T size = -s.learning_rate / (1 - std::pow(s.beta1, s.step));
#pragma omp parallel for
  for (int64_t i = 0; i < s.count; ++i) {
    const T g = grad[i] * factor;
    const T m = first_moment[i] + (g - first_moment[i]) * w1;
    const T v = second_moment[i] * b2 + w2 * g * g;
    first_moment[i] = m;
    second_moment[i] = v;
    value[i] = value[i] * decay + size * m / (std::sqrt(v) / root + eps);
  }
  return norm;
}

#define INSTANTIATE(T)                                                                                               \
  template void AttentionForward<T>(const T*, const T*, const T*, const int32_t*, int64_t, int64_t, int64_t, int64_t, \
                                    T, T*, T*);                                                                      \
  template void AttentionBackward<T>(const T*, const T*, const T*, const T*, const T*, const T*, const int32_t*,     \
                                     int64_t, int64_t, int64_t, int64_t, T, T*, T*, T*);                             \
  template void AttentionDecode<T>(const T*, const T* const*, const T* const*, const int32_t*, const T* const*,      \
                                   const T* const*, const int32_t*, int64_t, int64_t, int64_t, int64_t, T, T*);      \
  template void RmsNormForward<T>(const T*, const T*, int64_t, int64_t, T, T*, T*);                                  \
  template void RmsNormBackward<T>(const T*, const T*, const T*, const T*, int64_t, int64_t, bool, T*);              \
  template void Rope<T>(T*, const int32_t*, const T*, const T*, int64_t, int64_t, int64_t, int);                     \
  template void SwiGluForward<T>(const T*, const T*, int64_t, T*);                                                   \
  template void SwiGluBackward<T>(const T*, const T*, const T*, int64_t, T*, T*);                                    \
  template void LogSoftmaxRows<T>(const T*, const int32_t*, int64_t, int64_t, T, T*, T*, T*);                        \
  template void LogSoftmaxRowsBackward<T>(T*, const int32_t*, const T*, const T*, const T*, const T*, int64_t,       \
                                          int64_t, T);                                                               \
  template void KlRows<T>(const T*, const T*, int64_t, int64_t, T*);                                                 \
  template void SampleRows<T>(const T*, int64_t, int64_t, const float*, const float*, const int32_t*,                \
                              const uint64_t*, const int64_t*, int32_t*, float*);                                    \
  template double AdamW<T>(T*, T*, T*, const T*, const AdamWStep&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace selfedit::cpu
