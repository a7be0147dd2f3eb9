// Softmax statistics of one row of logits by one block, in one pass.
#pragma once
#include "common.cuh"

namespace selfedit::cuda {

constexpr int kHeadThreads = 512;
constexpr float kNone = -3e38f;  // stands for -inf, so that differences stay defined

struct RowStats {
  float maximum;
  double sum;       // of exp(z - maximum); NaN where a logit is NaN or +inf, 0 where all are -inf
  double weighted;  // of exp(z - maximum) (z - maximum)
  __device__ double Lse() const { return maximum + log(sum); }
};

// Calls body(float z, column) for this thread's share of a row, packs of N.
template <typename T, int N, typename Body>
__device__ inline void ForRow(const T* row, int64_t V, Body body) {
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < V; j += kHeadThreads * N) {
    float x[N];
    LoadFloats<T, N>(row + j, x);
#pragma unroll
    for (int i = 0; i < N; ++i) body(x[i], j + i);
  }
}

// Of z = inverse * row. Every thread keeps a running maximum and corrects its sums when it grows.
template <typename T, int N>
__device__ inline RowStats StatsOfRow(const T* row, int64_t V, float inverse) {
  float most = kNone;
  double sum = 0, weighted = 0;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < V; j += kHeadThreads * N) {
    float z[N], top = most;
    LoadFloats<T, N>(row + j, z);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      z[i] *= inverse;
      top = fmaxf(top, z[i]);
    }
    if (top > most) {
      const double fall = static_cast<double>(most) - top, factor = exp(fall);
      if (sum > 0) weighted = (weighted + sum * fall) * factor;
      sum *= factor;
      most = top;
    }
    float part = 0, part_weighted = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float away = z[i] - most, e = expf(away);
      part += e;
      part_weighted += e == 0 ? 0 : e * away;
    }
    sum += part;
    weighted += part_weighted;
  }
  const float maximum = BlockMax<kHeadThreads>(most);
  const double fall = static_cast<double>(most) - maximum, factor = exp(fall);
  weighted = sum > 0 ? (weighted + sum * fall) * factor : 0;
  return {maximum, BlockSum<kHeadThreads>(sum * factor), BlockSum<kHeadThreads>(weighted)};
}

}  // namespace selfedit::cuda
