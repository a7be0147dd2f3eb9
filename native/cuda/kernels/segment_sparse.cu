// Sparse changes of ragged rows, CSR. Forward: one thread adds up one row of the change for kSparseTokens
// tokens, so that an index is read once for all of them. Backward of the input: the same over columns.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kSparseThreads = 128, kSparseTokens = 8;
constexpr unsigned kValueBlocks = 64;  // blocks that share the entries of a segment

// y[t, i] += scale sum_e values[e] x[t, columns[e]], e in [offsets[i], offsets[i + 1]); with `order` the
// value of entry e is values[order[e]].
template <typename T, typename Y>
__global__ void __launch_bounds__(kSparseThreads)
    SparseRowsKernel(Segments segments, const int32_t* const* offsets, const int32_t* const* columns,
                     const int32_t* const* order, const void* const* values, const float* scale, int64_t in,
                     int64_t out, const T* x, Y* y) {
  const Tile tile = FindTile(segments.offsets, static_cast<int32_t>(segments.slots), kSparseTokens,
                             static_cast<int32_t>(blockIdx.x));
  if (tile.owner < 0 || offsets[tile.owner] == nullptr) return;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kSparseThreads + threadIdx.x;
  if (i >= out) return;
  const int32_t* column = columns[tile.owner];
  const int32_t* place = order == nullptr ? nullptr : order[tile.owner];
  const T* value = static_cast<const T*>(values[tile.owner]);
  const int32_t first = offsets[tile.owner][i], last = offsets[tile.owner][i + 1];
  if (first == last) return;
  const int32_t tokens = tile.end - tile.begin;
  float sums[kSparseTokens] = {};
  for (int32_t e = first; e < last; ++e) {
    const T* from = x + tile.begin * in + column[e];
    const float v = ToFloat(value[place == nullptr ? e : place[e]]);
#pragma unroll
    for (int t = 0; t < kSparseTokens; ++t) {
      if (t < tokens) sums[t] += v * ToFloat(from[t * in]);
    }
  }
  const float factor = scale == nullptr ? 1.0f : scale[tile.owner];
#pragma unroll
  for (int t = 0; t < kSparseTokens; ++t) {
    Y* to = y + (tile.begin + t) * out + i;
    if (t < tokens) *to = FromFloat<Y>(ToFloat(*to) + factor * sums[t]);
  }
}

// One warp an entry; lanes take tokens t = lane, lane + 32, … and are added in a fixed tree.
template <typename T>
__global__ void __launch_bounds__(kSparseThreads)
    SparseValuesKernel(Segments segments, const int32_t* const* row_offsets, const int32_t* const* columns,
                       const float* scale, int64_t in, int64_t out, const T* x, const T* dy,
                       float* const* dvalues, bool accumulate) {
  const int32_t s = static_cast<int32_t>(blockIdx.y);
  if (row_offsets[s] == nullptr || dvalues[s] == nullptr) return;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t entries = row_offsets[s][out], begin = segments.offsets[s], end = segments.offsets[s + 1];
  const float factor = scale == nullptr ? 1.0f : scale[s];
  const int32_t warps = static_cast<int32_t>(gridDim.x) * (kSparseThreads / 32);
  for (int32_t e = static_cast<int32_t>(blockIdx.x * (kSparseThreads / 32) + threadIdx.x / 32); e < entries;
       e += warps) {
    const int32_t row = OwnerOf(row_offsets[s], static_cast<int32_t>(out), e), column = columns[s][e];
    float sum = 0;
    for (int64_t t = begin + lane; t < end; t += 32) {
      sum += ToFloat(dy[t * out + row]) * ToFloat(x[t * in + column]);
    }
    sum = WarpSum(sum) * factor;
    if (lane == 0) dvalues[s][e] = (accumulate ? dvalues[s][e] : 0.0f) + sum;
  }
}

dim3 RowsGrid(const Segments& segments, int64_t out) {
  return {static_cast<unsigned>(MostTiles(segments.tokens, segments.slots, kSparseTokens)),
          Blocks(out, kSparseThreads), 1};
}

}  // namespace

void SparseForward(Type type, Type y_type, const Segments& segments, const Sparse& delta, const void* x,
                   void* y, Stream stream) {
  TypedResult(type, y_type, [&](auto tag, auto result) {
    using T = typename decltype(tag)::Element;
    using Y = typename decltype(result)::Element;
    Launch(SparseRowsKernel<T, Y>, RowsGrid(segments, delta.out), kSparseThreads, 0, stream, segments,
           delta.row_offsets, delta.columns, nullptr, delta.values, delta.scale, delta.in, delta.out,
           static_cast<const T*>(x), static_cast<Y*>(y));
  });
}

void SparseBackwardInput(Type type, const Segments& segments, const Sparse& delta, const void* dy, void* dx,
                         Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(SparseRowsKernel<T, T>, RowsGrid(segments, delta.in), kSparseThreads, 0, stream, segments,
           delta.column_offsets, delta.rows, delta.order, delta.values, delta.scale, delta.out, delta.in,
           static_cast<const T*>(dy), static_cast<T*>(dx));
  });
}

void SparseBackwardValues(Type type, const Segments& segments, const Sparse& delta, const void* x,
                          const void* dy, float* const* dvalues, bool accumulate, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(SparseValuesKernel<T>, dim3(kValueBlocks, static_cast<unsigned>(segments.slots)), kSparseThreads,
           0, stream, segments, delta.row_offsets, delta.columns, delta.scale, delta.in, delta.out,
           static_cast<const T*>(x), static_cast<const T*>(dy), dvalues, accumulate);
  });
}

}  // namespace selfedit::cuda
