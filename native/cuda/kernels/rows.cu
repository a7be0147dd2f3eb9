// Rows of the transformer: norms, rotation, gating, sums, embedding. All bound by memory: every value is read
// and written once, in packs of 16 bytes where rows allow it.
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
  if (gain.gain == nullptr || gain.segments.slots == 0) return nullptr;
  const int32_t slots = static_cast<int32_t>(gain.segments.slots);
  if (i >= gain.segments.offsets[slots]) return nullptr;
  return gain.gain[OwnerOf(gain.segments.offsets, slots, static_cast<int32_t>(i))];
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
    NormGainKernel(Segments segments, const T* x, const float* rstd, const T* dy, int64_t c,
                   float* const* dgain, bool accumulate) {
  const int64_t s = blockIdx.y, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= c || dgain[s] == nullptr) return;
  float sum = 0;
  for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
    sum += ToFloat(dy[t * c + j]) * ToFloat(x[t * c + j]) * rstd[t];
  }
  dgain[s][j] = (accumulate ? dgain[s][j] : 0.0f) + sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    RopeKernel(T* x, int64_t stride, const int32_t* position, const float* cos, const float* sin, int64_t n,
               int64_t heads, int64_t half, float sign) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= n * heads * half) return;
  const int64_t j = index % half, h = index / half % heads, i = index / (half * heads);
  const int64_t angle = position[i] * half + j;
  T* at = x + i * stride + h * 2 * half + j;
  const float a = ToFloat(at[0]), b = ToFloat(at[half]), c = cos[angle], s = sign * sin[angle];
  at[0] = FromFloat<T>(a * c - b * s);
  at[half] = FromFloat<T>(b * c + a * s);
}

// body(row, column) for every pack of [n, f].
template <int N, typename Body>
__device__ inline void ForPacks(int64_t n, int64_t f, Body body) {
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (index < n * f) body(index / f, index % f);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    SwiGluKernel(const T* gate, const T* up, int64_t stride, int64_t n, int64_t f, T* y) {
  ForPacks<N>(n, f, [&](int64_t i, int64_t j) {
    float g[N], u[N];
    LoadFloats<T, N>(gate + i * stride + j, g);
    LoadFloats<T, N>(up + i * stride + j, u);
#pragma unroll
    for (int e = 0; e < N; ++e) u[e] *= g[e] / (1 + expf(-g[e]));
    StoreFloats<T, N>(y + i * f + j, u);
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    SwiGluBackwardKernel(const T* gate, const T* up, int64_t stride, const T* dy, int64_t n, int64_t f,
                         T* dgate, T* dup) {
  ForPacks<N>(n, f, [&](int64_t i, int64_t j) {
    float g[N], u[N], d[N];
    LoadFloats<T, N>(gate + i * stride + j, g);
    LoadFloats<T, N>(up + i * stride + j, u);
    LoadFloats<T, N>(dy + i * f + j, d);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float s = 1 / (1 + expf(-g[e]));
      const float of_gate = d[e] * u[e] * s * (1 + g[e] * (1 - s));
      u[e] = d[e] * g[e] * s;
      g[e] = of_gate;
    }
    StoreFloats<T, N>(dgate + i * stride + j, g);
    StoreFloats<T, N>(dup + i * stride + j, u);
  });
}

// x += y, y repeated every c values.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    AddKernel(T* x, const T* y, int64_t n, int64_t c, int64_t y_stride) {
  ForPacks<N>(n, c, [&](int64_t i, int64_t j) {
    float a[N], b[N];
    LoadFloats<T, N>(x + i * c + j, a);
    LoadFloats<T, N>(y + i * y_stride + j, b);
#pragma unroll
    for (int e = 0; e < N; ++e) a[e] += b[e];
    StoreFloats<T, N>(x + i * c + j, a);
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(const T* table, const int32_t* token, int64_t n, int64_t c, int64_t V, T* x) {
  ForPacks<N>(n, c, [&](int64_t i, int64_t j) {
    const int32_t id = token[i];
    Pack<T, N> pack;
#pragma unroll
    for (int e = 0; e < N; ++e) pack.v[e] = FromFloat<T>(0.0f);
    if (id >= 0 && id < V) pack = LoadPack<T, N>(table + id * c + j);
    StorePack(x + i * c + j, pack);
  });
}

constexpr int64_t kWarpRow = 2048;  // longest row that a warp takes alone

// Calls body with N (packs or 1) as a type, and a pointer cast.
template <typename Body, typename... Pointers>
void Packed(Type type, int64_t width, Body body, Pointers... pointers) {
  Typed(type, [&](auto tag) {
    constexpr int N = kPackOf<typename decltype(tag)::Element>;
    if (Aligned(N, width, pointers...)) {
      body(tag, std::integral_constant<int, N>());
    } else {
      body(tag, std::integral_constant<int, 1>());
    }
  });
}

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

void RmsNormBackwardGain(Type type, const Segments& segments, const void* x, const float* rstd,
                         const void* dy, int64_t c, float* const* dgain, bool accumulate, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(NormGainKernel<T>, dim3(Blocks(c, kThreads), static_cast<unsigned>(segments.slots)), kThreads, 0,
           stream, segments, static_cast<const T*>(x), rstd, static_cast<const T*>(dy), c, dgain, accumulate);
  });
}

void Rope(Type type, void* x, int64_t stride, const int32_t* position, const float* cos, const float* sin,
          int64_t n, int64_t heads, int64_t d, int sign, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(RopeKernel<T>, dim3(Blocks(n * heads * (d / 2), kThreads)), kThreads, 0, stream,
           static_cast<T*>(x), stride, position, cos, sin, n, heads, d / 2, static_cast<float>(sign));
  });
}

void SwiGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                   Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(SwiGluKernel<T, N>, dim3(Blocks(n * f, kThreads * N)), kThreads, 0, stream,
           static_cast<const T*>(gate), static_cast<const T*>(up), stride, n, f, static_cast<T*>(y));
  };
  Packed(type, stride % 8 == 0 ? f : 1, body, gate, up, y);
}

void SwiGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                    int64_t f, void* dgate, void* dup, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(SwiGluBackwardKernel<T, N>, dim3(Blocks(n * f, kThreads * N)), kThreads, 0, stream,
           static_cast<const T*>(gate), static_cast<const T*>(up), stride, static_cast<const T*>(dy), n, f,
           static_cast<T*>(dgate), static_cast<T*>(dup));
  };
  Packed(type, stride % 8 == 0 ? f : 1, body, gate, up, dy, dgate, dup);
}

void BiasAdd(Type type, void* x, const void* bias, int64_t n, int64_t c, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(AddKernel<T, N>, dim3(Blocks(n * c, kThreads * N)), kThreads, 0, stream, static_cast<T*>(x),
           static_cast<const T*>(bias), n, c, 0);
  };
  Packed(type, c, body, x, bias);
}

void ResidualAdd(Type type, void* x, const void* y, int64_t count, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(AddKernel<T, N>, dim3(Blocks(count, kThreads * N)), kThreads, 0, stream, static_cast<T*>(x),
           static_cast<const T*>(y), 1, count, count);
  };
  Packed(type, count, body, x, y);
}

void Embed(Type type, const void* table, const int32_t* token, int64_t n, int64_t c, int64_t V, void* x,
           Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(EmbedKernel<T, N>, dim3(Blocks(n * c, kThreads * N)), kThreads, 0, stream,
           static_cast<const T*>(table), token, n, c, V, static_cast<T*>(x));
  };
  Packed(type, c, body, table, x);
}

}  // namespace selfedit::cuda
