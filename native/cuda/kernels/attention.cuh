// Shared by the attention kernels over documents: row tiles in shared memory, leftovers, choice of a width.
#pragma once
#include "mma.cuh"

namespace selfedit::cuda {

constexpr int kAttentionThreads = 128;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Rows first … first + kRows of a [·, d] matrix into a tile of width kWidth and row stride kStride; zeros
// beyond `last` and beyond d. kAsync: by CopyAsync where rows allow it (the caller commits and waits).
template <int kRows, int kWidth, int kStride, bool kAsync, typename T>
__device__ inline void LoadRows(const T* from, int64_t stride, int32_t first, int32_t last, int32_t d,
                                T* tile) {
  constexpr int N = kPackOf<T>, kAcross = kWidth / N;
  const bool packs = kAsync && reinterpret_cast<uintptr_t>(from) % 16 == 0 && stride % N == 0;
  for (int p = static_cast<int>(threadIdx.x); p < kRows * kAcross; p += kAttentionThreads) {
    const int32_t r = p / kAcross, c = p % kAcross * N;
    const bool present = first + r < last && c < d;
    const T* source = present ? from + (first + r) * stride + c : from;
    T* to = tile + r * kStride + c;
    if (packs) {
      CopyAsync(to, source, present ? 16 : 0);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] = present ? source[i] : FromFloat<T>(0.0f);
    }
  }
}

// Zeros to head `head` of the rows that belong to no document.
template <typename T>
__device__ inline void ZeroLeftover(const AttentionShape& shape, int64_t stride, int64_t head, T* to) {
  for (int64_t t = shape.document_offsets[shape.documents] + static_cast<int64_t>(blockIdx.x);
       t < shape.tokens; t += gridDim.x) {
    for (int64_t c = threadIdx.x; c < shape.d; c += kAttentionThreads) {
      to[t * stride + head * shape.d + c] = FromFloat<T>(0.0f);
    }
  }
}

inline __device__ Tile DocumentTile(const AttentionShape& shape, int32_t height) {
  return FindTile(shape.document_offsets, static_cast<int32_t>(shape.documents), height,
                  static_cast<int32_t>(blockIdx.x));
}

// Whether a query sees a key of its document: one at or before it, and with kWindow one of the last
// shape.window of those.
template <bool kWindow>
__device__ inline bool Sees(const AttentionShape& shape, int32_t query, int32_t key) {
  return key <= query && (!kWindow || query - key < shape.window);
}
// Of a document that begins at `start`: the first key that a query from `query` on may see.
template <bool kWindow>
__device__ inline int32_t FirstKey(const AttentionShape& shape, int32_t start, int32_t query) {
  if constexpr (!kWindow) return start;
  return max(start, query - static_cast<int32_t>(shape.window) + 1);
}
// Of a document that ends at `end`: behind the last query that may see a key before `keys_end`.
template <bool kWindow>
__device__ inline int32_t QueriesEnd(const AttentionShape& shape, int32_t end, int32_t keys_end) {
  if constexpr (!kWindow) return end;
  return end - keys_end < shape.window - 1 ? end : keys_end + static_cast<int32_t>(shape.window) - 1;
}

// Calls body with whether queries have a window; one as wide as all rows hides nothing.
template <typename Body>
void WithWindow(const AttentionShape& shape, Body body) {
  if (shape.window > 0 && shape.window < shape.tokens) {
    body(std::true_type());
  } else {
    body(std::false_type());
  }
}

// Calls body with the least kernel width that holds d.
template <typename Body>
void WithWidth(int64_t d, Body body) {
  if (d <= 64) {
    body(std::integral_constant<int, 64>());
  } else if (d <= 128) {
    body(std::integral_constant<int, 128>());
  } else {
    body(std::integral_constant<int, 256>());
  }
}

// c[keys / 8][4] += a rows (16 of tile a) times b rows (kColumns of tile b), both [·, kWidth].
template <int kWidth, int kColumns, int kStride, typename T>
__device__ inline void MultiplyRows(float (&c)[kColumns / 8][4], const T* a_rows, const T* b_rows) {
#pragma unroll 4
  for (int k = 0; k < kWidth; k += 16) {
    uint32_t a[4];
    LoadA<false>(a, a_rows + k, kStride);
#pragma unroll
    for (int n = 0; n < kColumns; n += 16) {
      uint32_t b[4];
      LoadB<false>(b, b_rows + n * kStride + k, kStride);
      Mma(c[n / 8], a, b[0], b[1], T());
      Mma(c[n / 8 + 1], a, b[2], b[3], T());
    }
  }
}

// out[kWidth / 8][4] += p (sums of 16 rows by kColumns, rounded to T) times rows [kColumns, kWidth].
template <int kWidth, int kColumns, int kStride, typename T>
__device__ inline void MultiplyWeights(float (&out)[kWidth / 8][4], const float (&p)[kColumns / 8][4],
                                       const T* rows) {
#pragma unroll
  for (int k = 0; k < kColumns; k += 16) {
    const auto& low = p[k / 8];
    const auto& high = p[k / 8 + 1];
    const uint32_t a[4] = {PackPair<T>(low[0], low[1]), PackPair<T>(low[2], low[3]),
                           PackPair<T>(high[0], high[1]), PackPair<T>(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kWidth; n += 16) {
      uint32_t b[4];
      LoadB<true>(b, rows + k * kStride + n, kStride);
      Mma(out[n / 8], a, b[0], b[1], T());
      Mma(out[n / 8 + 1], a, b[2], b[3], T());
    }
  }
}

// Sums of 16 rows by kWidth to rows first + 0 … 15 of a matrix, columns below d, times factor[0] (rows 0 … 7)
// and factor[1].
template <int kWidth, typename T>
__device__ inline void StoreRows(const float (&sums)[kWidth / 8][4], const float (&factor)[2], int32_t first,
                                 int32_t last, int32_t d, T* to, int64_t stride) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = first + lane / 4 + 8 * half;
    if (row >= last) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int32_t column = 8 * n + lane % 4 * 2;
      if (column >= d) continue;
      T* place = to + row * stride + column;
      place[0] = FromFloat<T>(sums[n][2 * half] * factor[half]);
      place[1] = FromFloat<T>(sums[n][2 * half + 1] * factor[half]);
    }
  }
}

// Dot product of two rows of floats, d a multiple of 8.
__device__ inline float Dot(const float* a, const float* b, int32_t d) {
  float sum = 0;
#pragma unroll 8
  for (int32_t c = 0; c < d; ++c) sum += a[c] * b[c];
  return sum;
}

}  // namespace selfedit::cuda
