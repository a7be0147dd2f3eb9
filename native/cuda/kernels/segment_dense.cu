// Dense changes of ragged rows: products with a whole matrix a segment, and its gradient.
// Grid: a tile of 64 rows of one segment by 64 columns of the result; values: 64 x 64 of them a segment.
#include "segment_product.cuh"

namespace selfedit::cuda {
namespace {

// y += scale x D^T, or (kBackward) dx += scale dy D.
template <typename T, typename Y, bool kBackward, int N>
__global__ void __launch_bounds__(kTileThreads)
    DenseKernel(Segments segments, Dense delta, const T* x, Y* y) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const Tile tile = FindTile(segments.offsets, static_cast<int32_t>(segments.slots), kTile,
                             static_cast<int32_t>(blockIdx.x));
  if (tile.owner < 0 || delta.values[tile.owner] == nullptr) return;
  const int32_t height = tile.end - tile.begin, n0 = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t in = static_cast<int32_t>(delta.in), out = static_cast<int32_t>(delta.out);
  const int32_t depth = kBackward ? out : in, width = kBackward ? in : out;
  const auto left = MakeOperand(x + static_cast<int64_t>(tile.begin) * depth, depth, height, depth);
  const auto right = MakeOperand(static_cast<const T*>(delta.values[tile.owner]), in, out, in);
  const float* sums = MultiplyTile<T, false, kBackward>(left, 0, right, n0, depth, height, shared);
  const float scale = delta.scale == nullptr ? 1.0f : delta.scale[tile.owner];
  AddTile<Y, N>(tile, n0, width, scale, sums, y);
}

// dD = scale dy^T x, one segment a block row; tokens in their order.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    DenseValuesKernel(Segments segments, Dense delta, const T* x, const T* dy, float* const* dvalues,
                      bool accumulate) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const int32_t s = static_cast<int32_t>(blockIdx.z), begin = segments.offsets[s];
  const int32_t tokens = segments.offsets[s + 1] - begin;
  float* to = dvalues[s];
  if (to == nullptr || (tokens == 0 && accumulate)) return;
  const int32_t in = static_cast<int32_t>(delta.in), out = static_cast<int32_t>(delta.out);
  const int32_t m0 = static_cast<int32_t>(blockIdx.y) * kTile, n0 = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t height = min(out - m0, kTile);
  const auto left = MakeOperand(dy + static_cast<int64_t>(begin) * out, out, tokens, out);
  const auto right = MakeOperand(x + static_cast<int64_t>(begin) * in, in, tokens, in);
  const float* sums = MultiplyTile<T, true, true>(left, m0, right, n0, tokens, height, shared);
  const float scale = delta.scale == nullptr ? 1.0f : delta.scale[s];
  for (int p = static_cast<int>(threadIdx.x); p < height * kTile; p += kTileThreads) {
    const int32_t r = p / kTile, c = p % kTile;
    if (n0 + c >= in) continue;
    float* place = to + static_cast<int64_t>(m0 + r) * in + n0 + c;
    *place = (accumulate ? *place : 0.0f) + scale * sums[r * kSumStride + c];
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    CopiedRowsKernel(Segments segments, CopiedRows rows, const T* x, T* y) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const Tile tile = FindTile(segments.offsets, static_cast<int32_t>(segments.slots), kTile,
                             static_cast<int32_t>(blockIdx.x));
  if (tile.owner < 0 || rows.weights[tile.owner] == nullptr) return;
  const int32_t height = tile.end - tile.begin, n0 = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t count = rows.count[tile.owner], in = static_cast<int32_t>(rows.in);
  if (n0 >= count) return;
  const auto left = MakeOperand(x + static_cast<int64_t>(tile.begin) * in, in, height, in);
  const auto right = MakeOperand(static_cast<const T*>(rows.weights[tile.owner]), in, count, in);
  const float* sums = MultiplyTile<T, false, false>(left, 0, right, n0, in, height, shared);
  const T* bias = static_cast<const T*>(rows.bias);
  for (int p = static_cast<int>(threadIdx.x); p < height * kTile; p += kTileThreads) {
    const int32_t r = p / kTile, c = p % kTile;
    if (n0 + c >= count) continue;
    const int32_t o = rows.first[tile.owner] + n0 + c;
    const float sum = sums[r * kSumStride + c] + (bias == nullptr ? 0.0f : ToFloat(bias[o]));
    y[static_cast<int64_t>(tile.begin + r) * rows.out + o] = FromFloat<T>(sum);
  }
}

template <bool kBackward>
void Multiply(Type type, Type y_type, const Segments& segments, const Dense& delta, const void* x, void* y,
              Stream stream) {
  const int64_t width = kBackward ? delta.in : delta.out;
  TypedResult(type, y_type, [&](auto tag, auto result) {
    using T = typename decltype(tag)::Element;
    using Y = typename decltype(result)::Element;
    constexpr int N = kPackOf<Y>;
    const auto kernel =
        Aligned(N, width, y) ? DenseKernel<T, Y, kBackward, N> : DenseKernel<T, Y, kBackward, 1>;
    Launch(kernel, TileGrid(segments, width), kTileThreads, kTileShared, stream, segments, delta,
           static_cast<const T*>(x), static_cast<Y*>(y));
  });
}

}  // namespace

void DenseForward(Type type, Type y_type, const Segments& segments, const Dense& delta, const void* x,
                  void* y, Stream stream) {
  Multiply<false>(type, y_type, segments, delta, x, y, stream);
}
void DenseBackwardInput(Type type, const Segments& segments, const Dense& delta, const void* dy, void* dx,
                        Stream stream) {
  Multiply<true>(type, type, segments, delta, dy, dx, stream);
}

void DenseBackwardValues(Type type, const Segments& segments, const Dense& delta, const void* x,
                         const void* dy, float* const* dvalues, bool accumulate, Stream stream) {
  const dim3 grid(Blocks(delta.in, kTile), Blocks(delta.out, kTile), static_cast<unsigned>(segments.slots));
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(DenseValuesKernel<T>, grid, kTileThreads, kTileShared, stream, segments, delta,
           static_cast<const T*>(x), static_cast<const T*>(dy), dvalues, accumulate);
  });
}

void CopiedRowsForward(Type type, const Segments& segments, const CopiedRows& rows, const void* x, void* y,
                       Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(CopiedRowsKernel<T>, TileGrid(segments, rows.most), kTileThreads, kTileShared, stream, segments,
           rows, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

}  // namespace selfedit::cuda
