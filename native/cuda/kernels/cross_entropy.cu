// Rows over the vocabulary: log-probabilities, entropy, divergence and their gradients. One block a row; a
// row of a few hundred kilobytes is still in the L2 cache when its second pass comes.
#include "row_stats.cuh"

namespace selfedit::cuda {
namespace {

template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    LogSoftmaxKernel(const T* logits, const int32_t* target, int64_t V, float temperature, float* logprob,
                     float* lse, float* entropy) {
  const int64_t r = blockIdx.x;
  const int32_t wanted = target[r];
  double log_of = 0, chosen = 0, spread = 0;
  if (wanted >= 0) {
    const float inverse = 1 / temperature;
    const RowStats stats = StatsOfRow<T, N>(logits + r * V, V, inverse);
    log_of = stats.Lse();
    chosen = ToFloat(logits[r * V + wanted]) * inverse - log_of;
    spread = log(stats.sum) - stats.weighted / stats.sum;
  }
  if (threadIdx.x != 0) return;
  logprob[r] = static_cast<float>(chosen);
  if (lse != nullptr) lse[r] = static_cast<float>(log_of);
  if (entropy != nullptr) entropy[r] = static_cast<float>(spread);
}

template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    LogSoftmaxBackwardKernel(T* logits, const int32_t* target, const float* lse, const float* g,
                             const float* e, const float* entropy, int64_t V, float temperature) {
  const int64_t r = blockIdx.x;
  T* row = logits + r * V;
  const int32_t wanted = target[r];
  const float inverse = 1 / temperature;
  const float g_r = wanted < 0 ? 0 : g[r], e_r = wanted < 0 || e == nullptr ? 0 : e[r];
  const float lse_r = wanted < 0 ? 0 : lse[r], entropy_r = e_r == 0 ? 0 : entropy[r];
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < V; j += kHeadThreads * N) {
    float x[N];
    LoadFloats<T, N>(row + j, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float log_p = x[i] * inverse - lse_r, p = expf(log_p);
      const float part = e_r == 0 || p == 0 ? 0 : e_r * p * (log_p + entropy_r);
      x[i] = wanted < 0 ? 0 : (g_r * ((j + i == wanted ? 1.0f : 0.0f) - p) - part) * inverse;
    }
    StoreFloats<T, N>(row + j, x);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    CrossEntropyKernel(T* logits, const int32_t* target, const float* weight, int64_t V, float* logprob) {
  const int64_t r = blockIdx.x;
  T* row = logits + r * V;
  const int32_t wanted = target[r];
  float lse = 0, scale = 0;
  if (wanted >= 0) {
    const double log_of = StatsOfRow<T, N>(row, V, 1.0f).Lse();
    lse = static_cast<float>(log_of);
    scale = weight[r];
    if (threadIdx.x == 0) logprob[r] = static_cast<float>(ToFloat(row[wanted]) - log_of);
    __syncthreads();  // the target's logit has been read
  } else if (threadIdx.x == 0) {
    logprob[r] = 0;
  }
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * N; j < V; j += kHeadThreads * N) {
    float x[N] = {};
    if (wanted >= 0) {
      LoadFloats<T, N>(row + j, x);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = scale * (expf(x[i] - lse) - (j + i == wanted ? 1.0f : 0.0f));
    }
    StoreFloats<T, N>(row + j, x);
  }
}

constexpr int kLossThreads = 256;

__global__ void __launch_bounds__(kLossThreads)
    SlotLossKernel(Segments segments, const float* weight, const float* logprob, const int32_t* step,
                   int64_t steps, float* loss) {
  const int64_t now = step == nullptr ? 0 : step[0], s = blockIdx.x;
  if (now >= steps) return;
  double sum = 0;
  for (int64_t t = segments.offsets[s] + static_cast<int64_t>(threadIdx.x); t < segments.offsets[s + 1];
       t += kLossThreads) {
    sum -= static_cast<double>(weight[t]) * logprob[t];
  }
  sum = BlockSum<kLossThreads>(sum);
  if (threadIdx.x == 0) loss[now * segments.slots + s] = static_cast<float>(sum);
}

template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads) KlKernel(const T* a, const T* b, int64_t V, float* kl) {
  const int64_t r = blockIdx.x;
  const double lse_a = StatsOfRow<T, N>(a + r * V, V, 1.0f).Lse();
  const double lse_b = StatsOfRow<T, N>(b + r * V, V, 1.0f).Lse();
  double sum = 0;
  ForRow<T, N>(a + r * V, V, [&](float x, int64_t j) {
    const double log_p = x - lse_a, log_q = ToFloat(b[r * V + j]) - lse_b;
    const float p = expf(static_cast<float>(log_p));
    if (p > 0) sum += p * (log_p - log_q);
  });
  sum = BlockSum<kHeadThreads>(sum);
  if (threadIdx.x == 0) kl[r] = static_cast<float>(sum);
}

dim3 RowGrid(int64_t rows) { return dim3(static_cast<unsigned>(rows)); }

}  // namespace

void LogSoftmaxRows(Type type, const void* logits, const int32_t* target, int64_t rows, int64_t V,
                    float temperature, float* logprob, float* lse, float* entropy, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    constexpr int N = kPackOf<T>;
    Launch(Aligned(N, V, logits) ? LogSoftmaxKernel<T, N> : LogSoftmaxKernel<T, 1>, RowGrid(rows),
           kHeadThreads, 0, stream, static_cast<const T*>(logits), target, V, temperature, logprob, lse,
           entropy);
  });
}

void LogSoftmaxRowsBackward(Type type, void* logits, const int32_t* target, const float* lse, const float* g,
                            const float* e, const float* entropy, int64_t rows, int64_t V, float temperature,
                            Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    constexpr int N = kPackOf<T>;
    Launch(Aligned(N, V, logits) ? LogSoftmaxBackwardKernel<T, N> : LogSoftmaxBackwardKernel<T, 1>,
           RowGrid(rows), kHeadThreads, 0, stream, static_cast<T*>(logits), target, lse, g, e, entropy, V,
           temperature);
  });
}

void CrossEntropy(Type type, void* logits, const int32_t* target, const float* weight, int64_t rows,
                  int64_t V, float* logprob, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    constexpr int N = kPackOf<T>;
    Launch(Aligned(N, V, logits) ? CrossEntropyKernel<T, N> : CrossEntropyKernel<T, 1>, RowGrid(rows),
           kHeadThreads, 0, stream, static_cast<T*>(logits), target, weight, V, logprob);
  });
}

void SlotLoss(const Segments& segments, const float* weight, const float* logprob, const int32_t* step,
              int64_t steps, float* loss, Stream stream) {
  Launch(SlotLossKernel, dim3(static_cast<unsigned>(segments.slots)), kLossThreads, 0, stream, segments,
         weight, logprob, step, steps, loss);
}

void KlRows(Type type, const void* a, const void* b, int64_t rows, int64_t V, float* kl, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    constexpr int N = kPackOf<T>;
    Launch(Aligned(N, V, a, b) ? KlKernel<T, N> : KlKernel<T, 1>, RowGrid(rows), kHeadThreads, 0, stream,
           static_cast<const T*>(a), static_cast<const T*>(b), V, kl);
  });
}

}  // namespace selfedit::cuda
