// Causal attention within documents, all keys or a window of them. One block: a tile of queries of one
// document, one head; keys are walked upwards with a running maximum. 16-bit elements on tensor cores (64
// queries), float by plain products (16).
#include "attention.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kQueries = 64;
template <int kD>
constexpr int kKeys = kD > 128 ? 32 : 64;
constexpr int kFloatQueries = 16, kFloatKeys = 32;

template <typename T, int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    ForwardKernel(AttentionShape shape, const T* q, const T* k, const T* v, T* out, float* lse) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kStride = kD + 8, K = kKeys<kD>;
  const int32_t h = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), g = h / (H / static_cast<int32_t>(shape.G));
  ZeroLeftover(shape, shape.H * shape.d, h, out);
  const Tile tile = DocumentTile(shape, kQueries);
  if (tile.owner < 0) return;
  const int32_t start = shape.document_offsets[tile.owner];
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t first = tile.begin + 16 * warp;  // this warp's first query
  T* q_tile = reinterpret_cast<T*>(shared);
  T* k_tile = q_tile + kQueries * kStride;
  T* v_tile = k_tile + K * kStride;
  LoadRows<kQueries, kD, kStride, true>(q + h * d, shape.q_stride, tile.begin, tile.end, d, q_tile);

  float sums[kD / 8][4] = {};
  float most[2] = {-FLT_MAX, -FLT_MAX}, total[2] = {0, 0};
  const float scale = shape.scale * kLog2E;
  for (int32_t j = FirstKey<kWindow>(shape, start, tile.begin); j < tile.end; j += K) {
    __syncthreads();  // everybody is done with the last tiles
    LoadRows<K, kD, kStride, true>(k + g * d, shape.kv_stride, j, tile.end, d, k_tile);
    CommitCopies();
    LoadRows<K, kD, kStride, true>(v + g * d, shape.kv_stride, j, tile.end, d, v_tile);
    CommitCopies();
    WaitCopies<1>();
    __syncthreads();
    float p[K / 8][4] = {};
    MultiplyRows<kD, K, kStride>(p, q_tile + 16 * warp * kStride, k_tile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = first + lane / 4 + 8 * half;
      float top = most[half];
#pragma unroll
      for (int n = 0; n < K / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = p[n][2 * half + e];
          s = Sees<kWindow>(shape, row, j + 8 * n + lane % 4 * 2 + e) ? s * scale : -INFINITY;
          top = fmaxf(top, s);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float factor = exp2f(most[half] - top);
      float part = 0;
#pragma unroll
      for (int n = 0; n < K / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) part += p[n][2 * half + e] = exp2f(p[n][2 * half + e] - top);
      }
      most[half] = top;
      total[half] = total[half] * factor + part;  // of this lane's columns; lanes are added at the end
#pragma unroll
      for (int n = 0; n < kD / 8; ++n) {
        sums[n][2 * half] *= factor;
        sums[n][2 * half + 1] *= factor;
      }
    }
    WaitCopies<0>();
    __syncthreads();
    MultiplyWeights<kD, K, kStride>(sums, p, v_tile);
  }
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(kAllLanes, total[half], 1);
    total[half] += __shfl_xor_sync(kAllLanes, total[half], 2);
    inverse[half] = 1 / total[half];
    const int32_t row = first + lane / 4 + 8 * half;
    if (lse != nullptr && lane % 4 == 0 && row < tile.end) {
      lse[static_cast<int64_t>(row) * H + h] = (most[half] + log2f(total[half])) * kLn2;
    }
  }
  StoreRows<kD>(sums, inverse, first, tile.end, d, out + h * d, shape.H * shape.d);
}

// Four queries a warp; a lane has one key for the scores, and columns lane, lane + 32, … of the sums.
template <int kD, bool kWindow>
__global__ void __launch_bounds__(kAttentionThreads)
    ForwardFloatKernel(AttentionShape shape, const float* q, const float* k, const float* v, float* out,
                       float* lse) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  constexpr int kRows = kFloatQueries / 4, kOwn = kD / 32;
  const int32_t h = static_cast<int32_t>(blockIdx.y), d = static_cast<int32_t>(shape.d);
  const int32_t H = static_cast<int32_t>(shape.H), g = h / (H / static_cast<int32_t>(shape.G));
  ZeroLeftover(shape, shape.H * shape.d, h, out);
  const Tile tile = DocumentTile(shape, kFloatQueries);
  if (tile.owner < 0) return;
  const int32_t start = shape.document_offsets[tile.owner];
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32), warp = static_cast<int32_t>(threadIdx.x / 32);
  float* q_tile = reinterpret_cast<float*>(shared);
  float* k_tile = q_tile + kFloatQueries * kD;  // rows one apart from a multiple of 32: no bank is hit twice
  float* v_tile = k_tile + kFloatKeys * (kD + 1);
  LoadRows<kFloatQueries, kD, kD, false>(q + h * d, shape.q_stride, tile.begin, tile.end, d, q_tile);

  float sums[kRows][kOwn] = {}, most[kRows], total[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) most[r] = -FLT_MAX;
  for (int32_t j = FirstKey<kWindow>(shape, start, tile.begin); j < tile.end; j += kFloatKeys) {
    __syncthreads();
    LoadRows<kFloatKeys, kD, kD + 1, false>(k + g * d, shape.kv_stride, j, tile.end, d, k_tile);
    LoadRows<kFloatKeys, kD, kD, false>(v + g * d, shape.kv_stride, j, tile.end, d, v_tile);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t row = warp * kRows + r;
      float p = Dot(q_tile + row * kD, k_tile + lane * (kD + 1), d) * shape.scale;
      if (!Sees<kWindow>(shape, tile.begin + row, j + lane)) p = -INFINITY;
      const float top = fmaxf(most[r], WarpMax(p)), factor = expf(most[r] - top);
      p = expf(p - top);
      most[r] = top;
      total[r] = total[r] * factor + WarpSum(p);
#pragma unroll
      for (int c = 0; c < kOwn; ++c) sums[r][c] *= factor;
      for (int i = 0; i < kFloatKeys; ++i) {
        const float weight = __shfl_sync(kAllLanes, p, i);
#pragma unroll
        for (int c = 0; c < kOwn; ++c) sums[r][c] += weight * v_tile[i * kD + lane + 32 * c];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t row = tile.begin + warp * kRows + r;
    if (row >= tile.end) continue;
    const int64_t place = static_cast<int64_t>(row) * H + h;
    if (lse != nullptr && lane == 0) lse[place] = most[r] + logf(total[r]);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      if (lane + 32 * c < d) out[place * d + lane + 32 * c] = sums[r][c] / total[r];
    }
  }
}

// lse of the rows that belong to no document.
__global__ void LeftoverKernel(AttentionShape shape, float* lse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kAttentionThreads + threadIdx.x;
  if (i >= shape.document_offsets[shape.documents] * shape.H && i < shape.tokens * shape.H) lse[i] = 0;
}

template <typename T>
void Forward(const AttentionShape& shape, const void* q, const void* k, const void* v, void* out, float* lse,
             Stream stream) {
  const auto launch = [&](auto kernel, int queries, size_t bytes) {
    const dim3 grid(static_cast<unsigned>(MostTiles(shape.tokens, shape.documents, queries)),
                    static_cast<unsigned>(shape.H));
    Launch(kernel, grid, kAttentionThreads, bytes, stream, shape, static_cast<const T*>(q),
           static_cast<const T*>(k), static_cast<const T*>(v), static_cast<T*>(out), lse);
  };
  WithWidth(shape.d, [&](auto width) {
    WithWindow(shape, [&](auto window) {
      constexpr int kD = decltype(width)::value;
      constexpr bool kWindow = decltype(window)::value;
      if constexpr (sizeof(T) == 4) {
        launch(ForwardFloatKernel<kD, kWindow>, kFloatQueries,
               sizeof(float) * (kFloatQueries * kD + kFloatKeys * (2 * kD + 1)));
      } else {
        launch(ForwardKernel<T, kD, kWindow>, kQueries, sizeof(T) * (kQueries + 2 * kKeys<kD>)*(kD + 8));
      }
    });
  });
}

}  // namespace

void AttentionForward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                      void* out, float* lse, Stream stream) {
  Typed(type, [&](auto tag) { Forward<typename decltype(tag)::Element>(shape, q, k, v, out, lse, stream); });
  if (lse != nullptr) {
    Launch(LeftoverKernel, dim3(Blocks(shape.tokens * shape.H, kAttentionThreads)), kAttentionThreads, 0,
           stream, shape, lse);
  }
}

}  // namespace selfedit::cuda
