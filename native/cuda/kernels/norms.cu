// RMS norms of rows, with a gain that may differ from segment to segment. A short row belongs to a warp, a
// long one to a block; bound by memory.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kThreads = 256;

// Sum over the kRow threads (32 or kThreads) that share a row.
template <int kRow>
__device__ inline float RowSum(float x) {
  if constexpr (kRow == 32) return WarpSum(x);
  return BlockSum<kRow>(x);
}

// Additive gain of row i, or null.
__device__ inline const float* GainOf(const NormGain& gain, int64_t i) {
  const int32_t s =
      gain.gain == nullptr ? -1 : SegmentOf(gain.segments, gain.heads == 1 ? i : i / gain.heads);
  return s < 0 ? nullptr : gain.gain[s];
}

template <typename T, int N, int kRow>
__global__ void __launch_bounds__(kThreads) NormKernel(T* x, const T* residual, const T* w, NormGain gain,
                                                       int64_t n, int64_t c, float eps, T* y, float* rstd) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kRow) + threadIdx.x / kRow;
  if (i >= n) return;  // the whole warp or block
  const int64_t first = static_cast<int64_t>(threadIdx.x % kRow) * N;
  float sum = 0;
  for (int64_t j = first; j < c; j += kRow * N) {
    float v[N];
    LoadFloats<T, N>(x + i * c + j, v);
    if (residual != nullptr) {
      float r[N];
      LoadFloats<T, N>(residual + i * c + j, r);
#pragma unroll
      for (int e = 0; e < N; ++e) v[e] = ToFloat(FromFloat<T>(v[e] + r[e]));
      StoreFloats<T, N>(x + i * c + j, v);
    }
#pragma unroll
    for (int e = 0; e < N; ++e) sum += v[e] * v[e];
  }
  const float scale = 1 / sqrtf(RowSum<kRow>(sum) / static_cast<float>(c) + eps);
  if (rstd != nullptr && threadIdx.x % kRow == 0) rstd[i] = scale;
  const float* added = GainOf(gain, i);
  for (int64_t j = first; j < c; j += kRow * N) {
    float v[N], weight[N];
    LoadFloats<T, N>(x + i * c + j, v);  // what this thread itself has written
    LoadFloats<T, N>(w + j, weight);
#pragma unroll
    for (int e = 0; e < N; ++e) v[e] *= scale * (weight[e] + (added == nullptr ? 0.0f : added[j + e]));
    StoreFloats<T, N>(y + i * c + j, v);
  }
}

// dx = rstd (w dy - x rstd^2 mean(w dy x))
template <typename T, int N, int kRow>
__global__ void __launch_bounds__(kThreads)
    NormBackwardKernel(const T* x, const T* w, NormGain gain, const float* rstd, const T* dy, int64_t n,
                       int64_t c, bool accumulate, T* dx) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / kRow) + threadIdx.x / kRow;
  if (i >= n) return;
  const int64_t first = static_cast<int64_t>(threadIdx.x % kRow) * N;
  const float* added = GainOf(gain, i);
  const float scale = rstd[i];
  float v[N], g[N], weight[N];
  const auto load = [&](int64_t j) {
    LoadFloats<T, N>(x + i * c + j, v);
    LoadFloats<T, N>(dy + i * c + j, g);
    LoadFloats<T, N>(w + j, weight);
#pragma unroll
    for (int e = 0; e < N; ++e) g[e] *= weight[e] + (added == nullptr ? 0.0f : added[j + e]);
  };
  float sum = 0;
  for (int64_t j = first; j < c; j += kRow * N) {
    load(j);
#pragma unroll
    for (int e = 0; e < N; ++e) sum += g[e] * v[e];
  }
  const float pull = RowSum<kRow>(sum) / static_cast<float>(c) * scale * scale;
  for (int64_t j = first; j < c; j += kRow * N) {
    float d[N] = {};
    load(j);
    if (accumulate) LoadFloats<T, N>(dx + i * c + j, d);
#pragma unroll
    for (int e = 0; e < N; ++e) d[e] += scale * (g[e] - v[e] * pull);
    StoreFloats<T, N>(dx + i * c + j, d);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    NormGainKernel(Segments segments, int64_t heads, const T* x, const float* rstd, const T* dy, int64_t c,
                   float* const* dgain, bool accumulate) {
  const int64_t s = blockIdx.y, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= c || dgain[s] == nullptr) return;
  float sum = 0;
  for (int64_t i = segments.offsets[s] * heads; i < segments.offsets[s + 1] * heads; ++i) {
    sum += ToFloat(dy[i * c + j]) * ToFloat(x[i * c + j]) * rstd[i];
  }
  dgain[s][j] = (accumulate ? dgain[s][j] : 0.0f) + sum;
}

constexpr int64_t kWarpRow = 2048;  // longest row that a warp takes alone

}  // namespace

void RmsNormForward(Type type, void* x, const void* residual, const void* w, const NormGain& gain, int64_t n,
                    int64_t c, float eps, void* y, float* rstd, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    const bool warp = c <= kWarpRow;
    Launch(warp ? NormKernel<T, N, 32> : NormKernel<T, N, kThreads>,
           dim3(Blocks(n, warp ? kThreads / 32 : 1)), kThreads, 0, stream, static_cast<T*>(x),
           static_cast<const T*>(residual), static_cast<const T*>(w), gain, n, c, eps, static_cast<T*>(y),
           rstd);
  };
  Packed(type, c, body, x, residual, w, y);
}

void RmsNormBackward(Type type, const void* x, const void* w, const NormGain& gain, const float* rstd,
                     const void* dy, int64_t n, int64_t c, bool accumulate, void* dx, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    const bool warp = c <= kWarpRow;
    Launch(warp ? NormBackwardKernel<T, N, 32> : NormBackwardKernel<T, N, kThreads>,
           dim3(Blocks(n, warp ? kThreads / 32 : 1)), kThreads, 0, stream, static_cast<const T*>(x),
           static_cast<const T*>(w), gain, rstd, static_cast<const T*>(dy), n, c, accumulate,
           static_cast<T*>(dx));
  };
  Packed(type, c, body, x, w, dy, dx);
}

void RmsNormBackwardGain(Type type, const Segments& segments, int64_t heads, const void* x, const float* rstd,
                         const void* dy, int64_t c, float* const* dgain, bool accumulate, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(NormGainKernel<T>, dim3(Blocks(c, kThreads), static_cast<unsigned>(segments.slots)), kThreads, 0,
           stream, segments, heads, static_cast<const T*>(x), rstd, static_cast<const T*>(dy), c, dgain,
           accumulate);
  });
}

}  // namespace selfedit::cuda
