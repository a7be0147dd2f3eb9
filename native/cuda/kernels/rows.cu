// Rows of the transformer: rotation, gating, sums, embedding. All bound by memory: every value is read
// and written once, in packs of 16 bytes where rows allow it.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kThreads = 256;

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

// Activations g sigmoid(Argument(g)); Slope is the argument's derivative.
struct Silu {
  static __device__ float Argument(float g) { return g; }
  static __device__ float Slope(float) { return 1; }
};
// (1 + tanh(a)) / 2 = sigmoid(2 a), a = sqrt(2 / pi) (g + 0.044715 g^3).
struct GeluTanh {
  static constexpr float kTwiceRoot = 1.5957691216057308f, kCubic = 0.044715f;
  static __device__ float Argument(float g) { return kTwiceRoot * g * (1 + kCubic * g * g); }
  static __device__ float Slope(float g) { return kTwiceRoot * (1 + 3 * kCubic * g * g); }
};

template <typename Activation, typename T, int N>
__global__ void __launch_bounds__(kThreads)
    GluKernel(const T* gate, const T* up, int64_t stride, int64_t n, int64_t f, T* y) {
  ForPacks<N>(n, f, [&](int64_t i, int64_t j) {
    float g[N], u[N];
    LoadFloats<T, N>(gate + i * stride + j, g);
    LoadFloats<T, N>(up + i * stride + j, u);
#pragma unroll
    for (int e = 0; e < N; ++e) u[e] *= g[e] / (1 + expf(-Activation::Argument(g[e])));
    StoreFloats<T, N>(y + i * f + j, u);
  });
}

template <typename Activation, typename T, int N>
__global__ void __launch_bounds__(kThreads)
    GluBackwardKernel(const T* gate, const T* up, int64_t stride, const T* dy, int64_t n, int64_t f, T* dgate,
                      T* dup) {
  ForPacks<N>(n, f, [&](int64_t i, int64_t j) {
    float g[N], u[N], d[N];
    LoadFloats<T, N>(gate + i * stride + j, g);
    LoadFloats<T, N>(up + i * stride + j, u);
    LoadFloats<T, N>(dy + i * f + j, d);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float s = 1 / (1 + expf(-Activation::Argument(g[e])));
      const float of_gate = d[e] * u[e] * s * (1 + g[e] * (1 - s) * Activation::Slope(g[e]));
      u[e] = d[e] * g[e] * s;
      g[e] = of_gate;
    }
    StoreFloats<T, N>(dgate + i * stride + j, g);
    StoreFloats<T, N>(dup + i * stride + j, u);
  });
}

template <typename Activation>
void Glu(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
         Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(GluKernel<Activation, T, N>, dim3(Blocks(n * f, kThreads * N)), kThreads, 0, stream,
           static_cast<const T*>(gate), static_cast<const T*>(up), stride, n, f, static_cast<T*>(y));
  };
  Packed(type, stride % 8 == 0 ? f : 1, body, gate, up, y);
}

template <typename Activation>
void GluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                 int64_t f, void* dgate, void* dup, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(GluBackwardKernel<Activation, T, N>, dim3(Blocks(n * f, kThreads * N)), kThreads, 0, stream,
           static_cast<const T*>(gate), static_cast<const T*>(up), stride, static_cast<const T*>(dy), n, f,
           static_cast<T*>(dgate), static_cast<T*>(dup));
  };
  Packed(type, stride % 8 == 0 ? f : 1, body, gate, up, dy, dgate, dup);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) ScaleKernel(T* x, float factor, int64_t count) {
  ForPacks<N>(1, count, [&](int64_t, int64_t j) {
    float a[N];
    LoadFloats<T, N>(x + j, a);
#pragma unroll
    for (int e = 0; e < N; ++e) a[e] *= factor;
    StoreFloats<T, N>(x + j, a);
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

}  // namespace

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
  Glu<Silu>(type, gate, up, stride, n, f, y, stream);
}
void SwiGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                    int64_t f, void* dgate, void* dup, Stream stream) {
  GluBackward<Silu>(type, gate, up, stride, dy, n, f, dgate, dup, stream);
}
void GeGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                  Stream stream) {
  Glu<GeluTanh>(type, gate, up, stride, n, f, y, stream);
}
void GeGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                   int64_t f, void* dgate, void* dup, Stream stream) {
  GluBackward<GeluTanh>(type, gate, up, stride, dy, n, f, dgate, dup, stream);
}

void Scale(Type type, void* x, float factor, int64_t count, Stream stream) {
  const auto body = [&](auto tag, auto pack) {
    using T = typename decltype(tag)::Element;
    constexpr int N = decltype(pack)::value;
    Launch(ScaleKernel<T, N>, dim3(Blocks(count, kThreads * N)), kThreads, 0, stream, static_cast<T*>(x),
           factor, count);
  };
  Packed(type, count, body, x);
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
