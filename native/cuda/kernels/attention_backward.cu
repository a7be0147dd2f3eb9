// Gradients of causal attention from the kept lse: delta = rowsum(out dout), then dq by tiles of queries and
// dk, dv by tiles of keys (which walk all heads of their group and all later queries). Probabilities are made
// twice, so that nothing needs an atomic and every sum has one order.
//   p = exp(scale q.k - lse), ds = p (dout.v - delta); dq = scale ds k, dk = scale ds^T q, dv = p^T dout
#include "attention.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kRowsOfTile = 64;
template <int kD>
constexpr int kWalk = kD > 64 ? 32 : 64;  // keys or queries of one step
constexpr int kFloatRows = 16, kFloatWalk = 32;
template <int kD>
constexpr int kPart = kD > 128 ? 128 : kD;  // columns of dk and dv that one block sums: registers end there

template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    DeltaKernel(int64_t rows, int64_t d, const T* out, const T* dout, float* delta) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kAttentionThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < d; c += 32)
    sum += ToFloat(out[row * d + c]) * ToFloat(dout[row * d + c]);
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

template <typename T, int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    QueryKernel(AttentionShape shape, const T* q, const T* k, const T* v, const float* lse, const T* dout,
                const float* delta, T* dq) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kStride = kD + 8, K = kWalk<kD>;
  const int32_t h = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), g = h / (H / static_cast<int32_t>(shape.G));
  ZeroLeftover(shape, shape.q_stride, h, dq);
  const Tile tile = DocumentTile(shape, kRowsOfTile);
  if (tile.owner < 0) return;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t first = tile.begin + 16 * warp;
  T* q_tile = reinterpret_cast<T*>(shared);
  T* o_tile = q_tile + kRowsOfTile * kStride;
  T* k_tile = o_tile + kRowsOfTile * kStride;
  T* v_tile = k_tile + K * kStride;
  LoadRows<kRowsOfTile, kD, kStride, true>(q + h * d, shape.q_stride, tile.begin, tile.end, d, q_tile);
  LoadRows<kRowsOfTile, kD, kStride, true>(dout + h * d, shape.H * shape.d, tile.begin, tile.end, d, o_tile);
  float log_of[2], delta_of[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = first + lane / 4 + 8 * half;
    const int64_t place = static_cast<int64_t>(row) * H + h;
    log_of[half] = row < tile.end ? lse[place] * kLog2E : 0;
    delta_of[half] = row < tile.end ? delta[place] : 0;
  }
  const float scale = shape.scale * kLog2E;
  float sums[kD / 8][4] = {};
  const int32_t start = shape.document_offsets[tile.owner];
  for (int32_t j = FirstKey<kWindow>(shape, start, tile.begin); j < tile.end; j += K) {
    __syncthreads();
    LoadRows<K, kD, kStride, true>(k + g * d, shape.kv_stride, j, tile.end, d, k_tile);
    LoadRows<K, kD, kStride, true>(v + g * d, shape.kv_stride, j, tile.end, d, v_tile);
    CommitCopies();
    WaitCopies<0>();
    __syncthreads();
    float p[K / 8][4] = {}, dp[K / 8][4] = {};
    MultiplyRows<kD, K, kStride>(p, q_tile + 16 * warp * kStride, k_tile);
    MultiplyRows<kD, K, kStride>(dp, o_tile + 16 * warp * kStride, v_tile);
#pragma unroll
    for (int n = 0; n < K / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int32_t row = first + lane / 4 + e / 2 * 8, key = j + 8 * n + lane % 4 * 2 + e % 2;
        const bool seen = Sees<kWindow>(shape, row, key);
        const float weight = seen ? exp2f(p[n][e] * scale - log_of[e / 2]) : 0;
        dp[n][e] = weight * (dp[n][e] - delta_of[e / 2]);
      }
    }
    MultiplyWeights<kD, K, kStride>(sums, dp, k_tile);
  }
  StoreRows<kD>(sums, {shape.scale, shape.scale}, first, tile.end, d, dq + h * d, shape.q_stride);
}

template <typename T, int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    KeyKernel(AttentionShape shape, const T* q, const T* k, const T* v, const float* lse, const T* dout,
              const float* delta, T* dk, T* dv) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kStride = kD + 8, Q = kWalk<kD>, C = kPart<kD>;
  const int32_t g = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), group = H / static_cast<int32_t>(shape.G);
  const int32_t part = static_cast<int32_t>(blockIdx.z) * C;
  if (part == 0) {
    ZeroLeftover(shape, shape.kv_stride, g, dk);
    ZeroLeftover(shape, shape.kv_stride, g, dv);
  }
  const Tile tile = DocumentTile(shape, kRowsOfTile);
  if (tile.owner < 0) return;
  const int32_t end = QueriesEnd<kWindow>(shape, shape.document_offsets[tile.owner + 1], tile.end);
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t first = tile.begin + 16 * warp;
  T* k_tile = reinterpret_cast<T*>(shared);
  T* v_tile = k_tile + kRowsOfTile * kStride;
  T* q_tile = v_tile + kRowsOfTile * kStride;
  T* o_tile = q_tile + Q * kStride;
  float* log_tile = reinterpret_cast<float*>(o_tile + Q * kStride);
  float* delta_tile = log_tile + Q;
  LoadRows<kRowsOfTile, kD, kStride, true>(k + g * d, shape.kv_stride, tile.begin, tile.end, d, k_tile);
  LoadRows<kRowsOfTile, kD, kStride, true>(v + g * d, shape.kv_stride, tile.begin, tile.end, d, v_tile);
  const float scale = shape.scale * kLog2E;
  float dk_sums[C / 8][4] = {}, dv_sums[C / 8][4] = {};
  for (int32_t h = g * group; h < (g + 1) * group; ++h) {
    for (int32_t i = tile.begin; i < end; i += Q) {
      __syncthreads();
      LoadRows<Q, kD, kStride, true>(q + h * d, shape.q_stride, i, end, d, q_tile);
      LoadRows<Q, kD, kStride, true>(dout + h * d, shape.H * shape.d, i, end, d, o_tile);
      CommitCopies();
      if (static_cast<int32_t>(threadIdx.x) < Q) {
        const int32_t row = i + static_cast<int32_t>(threadIdx.x);
        const int64_t place = static_cast<int64_t>(row) * H + h;
        log_tile[threadIdx.x] = row < end ? lse[place] * kLog2E : 0;
        delta_tile[threadIdx.x] = row < end ? delta[place] : 0;
      }
      WaitCopies<0>();
      __syncthreads();
      float p[Q / 8][4] = {}, ds[Q / 8][4] = {};  // rows are keys, columns queries
      MultiplyRows<kD, Q, kStride>(p, k_tile + 16 * warp * kStride, q_tile);
      MultiplyRows<kD, Q, kStride>(ds, v_tile + 16 * warp * kStride, o_tile);
#pragma unroll
      for (int n = 0; n < Q / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int32_t column = 8 * n + lane % 4 * 2 + e % 2, row = i + column;
          const bool seen = Sees<kWindow>(shape, row, first + lane / 4 + e / 2 * 8) && row < end;
          p[n][e] = seen ? exp2f(p[n][e] * scale - log_tile[column]) : 0;
          ds[n][e] = p[n][e] * (ds[n][e] - delta_tile[column]);
        }
      }
      MultiplyWeights<C, Q, kStride>(dv_sums, p, o_tile + part);
      MultiplyWeights<C, Q, kStride>(dk_sums, ds, q_tile + part);
    }
  }
  T* dk_to = dk + g * d + part;
  T* dv_to = dv + g * d + part;
  StoreRows<C>(dk_sums, {shape.scale, shape.scale}, first, tile.end, d - part, dk_to, shape.kv_stride);
  StoreRows<C>(dv_sums, {1.0f, 1.0f}, first, tile.end, d - part, dv_to, shape.kv_stride);
}

template <typename T>
void Backward(const AttentionShape& shape, const T* q, const T* k, const T* v, const float* lse,
              const T* dout, const float* delta, T* dq, T* dk, T* dv, Stream stream) {
  const unsigned tiles = static_cast<unsigned>(MostTiles(shape.tokens, shape.documents, kRowsOfTile));
  WithWidth(shape.d, [&](auto width) {
    WithWindow(shape, [&](auto window) {
      constexpr int kD = decltype(width)::value;
      constexpr bool kWindow = decltype(window)::value;
      constexpr size_t kBytes = sizeof(T) * 2 * (kRowsOfTile + kWalk<kD>)*(kD + 8);
      Launch(QueryKernel<T, kD, kWindow>, dim3(tiles, static_cast<unsigned>(shape.H)), kAttentionThreads,
             kBytes, stream, shape, q, k, v, lse, dout, delta, dq);
      Launch(KeyKernel<T, kD, kWindow>, dim3(tiles, static_cast<unsigned>(shape.G), kD / kPart<kD>),
             kAttentionThreads, kBytes + sizeof(float) * 2 * kWalk<kD>, stream, shape, q, k, v, lse, dout,
             delta, dk, dv);
    });
  });
}

// ---- float: four rows a warp, a lane has one of 32 partners, then columns lane, lane + 32, …
// ----------------

// sums[column] += weight of partner i times rows[i][column].
template <int kD>
__device__ inline void AddRows(float (&sums)[kD / 32], float weight, const float* rows, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 32; ++i) {
    const float of = __shfl_sync(kAllLanes, weight, i);
#pragma unroll
    for (int c = 0; c < kD / 32; ++c) sums[c] += of * rows[i * stride + lane + 32 * c];
  }
}
template <int kD>
__device__ inline void StoreColumns(const float (&sums)[kD / 32], float factor, int32_t d, float* to) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int c = 0; c < kD / 32; ++c) {
    if (lane + 32 * c < d) to[lane + 32 * c] = sums[c] * factor;
  }
}

template <int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    QueryFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v, const float* lse,
                     const float* dout, const float* delta, float* dq) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kRows = kFloatRows / 4, kStride = kD + 1;
  const int32_t h = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), g = h / (H / static_cast<int32_t>(shape.G));
  ZeroLeftover(shape, shape.q_stride, h, dq);
  const Tile tile = DocumentTile(shape, kFloatRows);
  if (tile.owner < 0) return;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  float* q_tile = reinterpret_cast<float*>(shared);
  float* o_tile = q_tile + kFloatRows * kD;
  float* k_tile = o_tile + kFloatRows * kD;
  float* v_tile = k_tile + kFloatWalk * kStride;
  LoadRows<kFloatRows, kD, kD, false>(q + h * d, shape.q_stride, tile.begin, tile.end, d, q_tile);
  LoadRows<kFloatRows, kD, kD, false>(dout + h * d, shape.H * shape.d, tile.begin, tile.end, d, o_tile);
  float sums[kRows][kD / 32] = {};
  const int32_t start = shape.document_offsets[tile.owner];
  for (int32_t j = FirstKey<kWindow>(shape, start, tile.begin); j < tile.end; j += kFloatWalk) {
    __syncthreads();
    LoadRows<kFloatWalk, kD, kStride, false>(k + g * d, shape.kv_stride, j, tile.end, d, k_tile);
    LoadRows<kFloatWalk, kD, kStride, false>(v + g * d, shape.kv_stride, j, tile.end, d, v_tile);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t own = warp * kRows + r, row = tile.begin + own;
      if (row >= tile.end) continue;  // the whole warp
      const int64_t place = static_cast<int64_t>(row) * H + h;
      const float s = Dot(q_tile + own * kD, k_tile + lane * kStride, d) * shape.scale;
      const float p = Sees<kWindow>(shape, row, j + lane) ? expf(s - lse[place]) : 0;
      const float ds = p * (Dot(o_tile + own * kD, v_tile + lane * kStride, d) - delta[place]);
      AddRows<kD>(sums[r], ds, k_tile, kStride);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t row = tile.begin + warp * kRows + r;
    if (row < tile.end) StoreColumns<kD>(sums[r], shape.scale, d, dq + row * shape.q_stride + h * d);
  }
}

template <int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    KeyFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v, const float* lse,
                   const float* dout, const float* delta, float* dk, float* dv) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kRows = kFloatRows / 4, kStride = kD + 1;
  const int32_t g = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), group = H / static_cast<int32_t>(shape.G);
  ZeroLeftover(shape, shape.kv_stride, g, dk);
  ZeroLeftover(shape, shape.kv_stride, g, dv);
  const Tile tile = DocumentTile(shape, kFloatRows);
  if (tile.owner < 0) return;
  const int32_t end = QueriesEnd<kWindow>(shape, shape.document_offsets[tile.owner + 1], tile.end);
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  float* k_tile = reinterpret_cast<float*>(shared);
  float* v_tile = k_tile + kFloatRows * kD;
  float* q_tile = v_tile + kFloatRows * kD;
  float* o_tile = q_tile + kFloatWalk * kStride;
  LoadRows<kFloatRows, kD, kD, false>(k + g * d, shape.kv_stride, tile.begin, tile.end, d, k_tile);
  LoadRows<kFloatRows, kD, kD, false>(v + g * d, shape.kv_stride, tile.begin, tile.end, d, v_tile);
  float dk_sums[kRows][kD / 32] = {}, dv_sums[kRows][kD / 32] = {};
  for (int32_t h = g * group; h < (g + 1) * group; ++h) {
    for (int32_t i = tile.begin; i < end; i += kFloatWalk) {
      __syncthreads();
      LoadRows<kFloatWalk, kD, kStride, false>(q + h * d, shape.q_stride, i, end, d, q_tile);
      LoadRows<kFloatWalk, kD, kStride, false>(dout + h * d, shape.H * shape.d, i, end, d, o_tile);
      __syncthreads();
      const int32_t query = i + lane;
      const int64_t place = static_cast<int64_t>(query) * H + h;
      const float log_of = query < end ? lse[place] : 0, delta_of = query < end ? delta[place] : 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int32_t own = warp * kRows + r, key = tile.begin + own;
        const float s = Dot(k_tile + own * kD, q_tile + lane * kStride, d) * shape.scale;
        const float p = Sees<kWindow>(shape, query, key) && query < end ? expf(s - log_of) : 0;
        const float ds = p * (Dot(v_tile + own * kD, o_tile + lane * kStride, d) - delta_of);
        AddRows<kD>(dv_sums[r], p, o_tile, kStride);
        AddRows<kD>(dk_sums[r], ds, q_tile, kStride);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t key = tile.begin + warp * kRows + r;
    if (key >= tile.end) continue;
    StoreColumns<kD>(dk_sums[r], shape.scale, d, dk + key * shape.kv_stride + g * d);
    StoreColumns<kD>(dv_sums[r], 1.0f, d, dv + key * shape.kv_stride + g * d);
  }
}

void Backward(const AttentionShape& shape, const float* q, const float* k, const float* v, const float* lse,
              const float* dout, const float* delta, float* dq, float* dk, float* dv, Stream stream) {
  const unsigned tiles = static_cast<unsigned>(MostTiles(shape.tokens, shape.documents, kFloatRows));
  WithWidth(shape.d, [&](auto width) {
    WithWindow(shape, [&](auto window) {
      constexpr int kD = decltype(width)::value;
      constexpr bool kWindow = decltype(window)::value;
      constexpr size_t kBytes = sizeof(float) * 2 * (kFloatRows * kD + kFloatWalk * (kD + 1));
      Launch(QueryFloatKernel<kD, kWindow>, dim3(tiles, static_cast<unsigned>(shape.H)), kAttentionThreads,
             kBytes, stream, shape, q, k, v, lse, dout, delta, dq);
      Launch(KeyFloatKernel<kD, kWindow>, dim3(tiles, static_cast<unsigned>(shape.G)), kAttentionThreads,
             kBytes, stream, shape, q, k, v, lse, dout, delta, dk, dv);
    });
  });
}

}  // namespace

void AttentionBackward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                       const void* out, const float* lse, const void* dout, float* delta, void* dq, void* dk,
                       void* dv, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    const auto typed = [](const void* pointer) { return static_cast<const T*>(pointer); };
    const int64_t rows = shape.tokens * shape.H;
    Launch(DeltaKernel<T>, dim3(Blocks(rows, kAttentionThreads / 32)), kAttentionThreads, 0, stream, rows,
           shape.d, typed(out), typed(dout), delta);
    Backward(shape, typed(q), typed(k), typed(v), lse, typed(dout), delta, static_cast<T*>(dq),
             static_cast<T*>(dk), static_cast<T*>(dv), stream);
  });
}

}  // namespace selfedit::cuda
