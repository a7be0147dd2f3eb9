// One 64 x 64 tile of a matrix product, staged through shared memory: tensor cores for 16-bit elements, plain
// multiply-adds for float. Operands lie in global memory either way round, ragged at every edge.
#pragma once
#include "mma.cuh"

namespace selfedit::cuda {

constexpr int kTile = 64, kTileThreads = 128, kStages = 3;
constexpr int kTileBytes = 9216;                       // of one operand's tile with its padding
constexpr int kTileShared = 2 * kStages * kTileBytes;  // the sums reuse it afterwards
constexpr int kSumStride = kTile + 4;
template <typename T>
constexpr int kDepth = 128 / static_cast<int>(sizeof(T));  // k of one stage

// A matrix as it lies in memory. factor (null: none) multiplies column j by factor[j].
template <typename T>
struct Operand {
  const T* base;
  int64_t stride;
  int32_t rows, columns;
  const float* factor;
  bool packs;  // 16-byte copies are allowed
};
template <typename T>
__device__ inline Operand<T> MakeOperand(const T* base, int64_t stride, int32_t rows, int32_t columns,
                                         const float* factor = nullptr) {
  const bool packs = reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride % kPackOf<T> == 0;
  return {base, stride, rows, columns, factor, packs && factor == nullptr};
}

// Rows r0 …, columns c0 … into a tile with rows kColumns + one pack apart; zeros outside.
template <typename T, int kRows, int kColumns>
__device__ inline void LoadTile(const Operand<T>& o, int32_t r0, int32_t c0, T* tile) {
  constexpr int N = kPackOf<T>, kAcross = kColumns / N;
  for (int p = static_cast<int>(threadIdx.x); p < kRows * kAcross; p += kTileThreads) {
    const int32_t r = p / kAcross, c = p % kAcross * N, row = r0 + r, column = c0 + c;
    const int32_t left = o.columns - column;
    const int32_t present = row >= o.rows || left <= 0 ? 0 : left < N ? left : N;
    const T* from = present > 0 ? o.base + row * o.stride + column : o.base;
    T* to = tile + r * (kColumns + N) + c;
    if (o.packs) {
      CopyAsync(to, from, present * static_cast<int>(sizeof(T)));
    } else {
      for (int i = 0; i < N; ++i) {
        float x = i < present ? ToFloat(from[i]) : 0.0f;
        if (o.factor != nullptr && i < present) x *= o.factor[column + i];
        to[i] = FromFloat<T>(x);
      }
    }
  }
}

// Sums of one thread: of 16-bit elements the fragments of a 32 x 32 quarter, of floats 8 rows by 4 columns.
template <typename T>
struct TileSums {
  float c[2][4][4] = {};

  // left [64, depth], right [depth, 64]; kLeftByK: stored [k, row], kRightByK: stored [k, column].
  template <bool kLeftByK, bool kRightByK>
  __device__ void Add(const T* left, const T* right, int32_t height) {
    constexpr int N = kPackOf<T>, K = kDepth<T>;
    constexpr int kLeft = (kLeftByK ? kTile : K) + N, kRight = (kRightByK ? kTile : K) + N;
    const int warp = static_cast<int>(threadIdx.x / 32), row = warp / 2 * 32, column = warp % 2 * 32;
    if (row >= height) return;
    for (int k = 0; k < K; k += 16) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int r = row + 16 * i, n = column + 16 * i;
        LoadA<kLeftByK>(a[i], left + (kLeftByK ? k * kLeft + r : r * kLeft + k), kLeft);
        LoadB<kRightByK>(b[i], right + (kRightByK ? k * kRight + n : n * kRight + k), kRight);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) Mma(c[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], T());
      }
    }
  }
  __device__ void Store(float* sums) const {
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = warp / 2 * 32 + 16 * i + lane / 4 + e / 2 * 8;
          sums[row * kSumStride + warp % 2 * 32 + 8 * j + lane % 4 * 2 + e % 2] = c[i][j][e];
        }
      }
    }
  }
};

template <>
struct TileSums<float> {
  float c[8][4] = {};

  template <bool kLeftByK, bool kRightByK>
  __device__ void Add(const float* left, const float* right, int32_t height) {
    constexpr int N = kPackOf<float>, K = kDepth<float>;
    constexpr int kLeft = (kLeftByK ? kTile : K) + N, kRight = (kRightByK ? kTile : K) + N;
    const int row = static_cast<int>(threadIdx.x / 16) * 8, column = static_cast<int>(threadIdx.x % 16);
    if (row >= height) return;
    for (int k = 0; k < K; ++k) {
      float b[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int n = column + 16 * j;
        b[j] = right[kRightByK ? k * kRight + n : n * kRight + k];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float a = left[kLeftByK ? k * kLeft + row + i : (row + i) * kLeft + k];
#pragma unroll
        for (int j = 0; j < 4; ++j) c[i][j] += a * b[j];
      }
    }
  }
  __device__ void Store(float* sums) const {
    const int row = static_cast<int>(threadIdx.x / 16) * 8, column = static_cast<int>(threadIdx.x % 16);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[(row + i) * kSumStride + column + 16 * j] = c[i][j];
    }
  }
};

// sums [64, kSumStride] (in `shared`) = left [m0 …, depth] right [depth, n0 …]; rows at or beyond `height` of
// the tile are not wanted. k is walked upwards in stages that are copied while earlier ones are multiplied.
template <typename T, bool kLeftByK, bool kRightByK>
__device__ inline float* MultiplyTile(const Operand<T>& left, int32_t m0, const Operand<T>& right, int32_t n0,
                                      int32_t depth, int32_t height, unsigned char* shared) {
  constexpr int K = kDepth<T>;
  const auto tile = [&](int stage, int side) {
    return reinterpret_cast<T*>(shared + (2 * stage + side) * kTileBytes);
  };
  const auto load = [&](int32_t step) {
    const int stage = step % kStages;
    if constexpr (kLeftByK) {
      LoadTile<T, K, kTile>(left, step * K, m0, tile(stage, 0));
    } else {
      LoadTile<T, kTile, K>(left, m0, step * K, tile(stage, 0));
    }
    if constexpr (kRightByK) {
      LoadTile<T, K, kTile>(right, step * K, n0, tile(stage, 1));
    } else {
      LoadTile<T, kTile, K>(right, n0, step * K, tile(stage, 1));
    }
  };
  TileSums<T> sums;
  const int32_t steps = (depth + K - 1) / K;
  for (int32_t step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    CommitCopies();
  }
  for (int32_t step = 0; step < steps; ++step) {
    WaitCopies<kStages - 2>();
    __syncthreads();  // this stage has come, and everybody is done with the one that is loaded next
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    CommitCopies();
    sums.template Add<kLeftByK, kRightByK>(tile(step % kStages, 0), tile(step % kStages, 1), height);
  }
  WaitCopies<0>();
  __syncthreads();
  float* result = reinterpret_cast<float*>(shared);
  sums.Store(result);
  __syncthreads();
  return result;
}

// y [tile rows, n0 …] += scale sums, y rows `width` apart; N neighbours at once.
template <typename Y, int N>
__device__ inline void AddTile(const Tile& tile, int32_t n0, int32_t width, float scale, const float* sums,
                               Y* y) {
  const int32_t height = tile.end - tile.begin;
  for (int p = static_cast<int>(threadIdx.x); p < height * (kTile / N); p += kTileThreads) {
    const int32_t r = p / (kTile / N), c = p % (kTile / N) * N;
    if (n0 + c >= width) continue;
    Y* to = y + static_cast<int64_t>(tile.begin + r) * width + n0 + c;
    float sum[N];
    LoadFloats<Y, N>(to, sum);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += scale * sums[r * kSumStride + c + i];
    StoreFloats<Y, N>(to, sum);
  }
}

// Tiles of 64 rows of one segment by 64 columns of the result.
inline dim3 TileGrid(const Segments& segments, int64_t width) {
  return {static_cast<unsigned>(MostTiles(segments.tokens, segments.slots, kTile)), Blocks(width, kTile), 1};
}

}  // namespace selfedit::cuda
