// Low-rank changes of ragged rows: shrink to the rank, expand from it, their gradients.
// Grid: a tile of 64 rows of one slot by 64 columns of the result.
#include "segment_product.cuh"

namespace selfedit::cuda {
namespace {

// The factors of one slot; rank 0 where it has none.
template <typename T>
struct Factors {
  const T* a;
  const T* b;
  int64_t b_stride;
  int32_t rank;
  float scale;
  const float* gain;
};

template <typename T>
__device__ Factors<T> FactorsOf(const LowRank& delta, int32_t s) {
  Factors<T> f;
  f.scale = delta.scale == nullptr ? 1.0f : delta.scale[s];
  f.gain = delta.gain_pointers != nullptr ? delta.gain_pointers[s]
           : delta.gain == nullptr        ? nullptr
                                          : delta.gain + s * delta.gain_stride;
  if (delta.a_pointers != nullptr) {
    f.a = static_cast<const T*>(delta.a_pointers[s]);
    f.b = static_cast<const T*>(delta.b_pointers[s]);
    f.rank = f.a == nullptr || f.b == nullptr ? 0 : delta.ranks[s];
    f.b_stride = f.rank;
  } else {
    f.a = static_cast<const T*>(delta.a) + s * delta.a_stride;
    f.b = static_cast<const T*>(delta.b) + s * delta.b_stride;
    f.rank = static_cast<int32_t>(delta.rank);
    f.b_stride = delta.rank;
  }
  return f;
}

// u = x A^T, or (kBackward) v = scale dy B.
template <typename T, bool kBackward>
__global__ void __launch_bounds__(kTileThreads)
    ShrinkKernel(Segments segments, LowRank delta, const T* x, T* u) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const Tile tile = FindTile(segments.offsets, static_cast<int32_t>(segments.slots), kTile,
                             static_cast<int32_t>(blockIdx.x));
  if (tile.owner < 0) return;
  const Factors<T> f = FactorsOf<T>(delta, tile.owner);
  const int32_t height = tile.end - tile.begin, n0 = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t R = static_cast<int32_t>(delta.rank);
  const int32_t in = static_cast<int32_t>(delta.in), out = static_cast<int32_t>(delta.out);
  const float* sums;
  if constexpr (kBackward) {
    const auto left = MakeOperand(x + tile.begin * delta.out, delta.out, height, out);
    const auto right = MakeOperand(f.b, f.b_stride, out, f.rank);
    sums = MultiplyTile<T, false, true>(left, 0, right, n0, f.rank > 0 ? out : 0, height, shared);
  } else {
    const auto left = MakeOperand(x + tile.begin * delta.in, delta.in, height, in);
    const auto right = MakeOperand(f.a, delta.in, f.rank, in);
    sums = MultiplyTile<T, false, false>(left, 0, right, n0, f.rank > 0 ? in : 0, height, shared);
  }
  const float scale = kBackward ? f.scale : 1.0f;
  for (int p = static_cast<int>(threadIdx.x); p < height * kTile; p += kTileThreads) {
    const int32_t r = p / kTile, c = p % kTile;
    if (n0 + c < R)
      u[static_cast<int64_t>(tile.begin + r) * R + n0 + c] = FromFloat<T>(scale * sums[r * kSumStride + c]);
  }
}

// y += scale (gain u) B^T, or (kBackward) dx += (gain v) A.
template <typename T, typename Y, bool kBackward, int N>
__global__ void __launch_bounds__(kTileThreads)
    ExpandKernel(Segments segments, LowRank delta, const T* u, Y* y) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const Tile tile = FindTile(segments.offsets, static_cast<int32_t>(segments.slots), kTile,
                             static_cast<int32_t>(blockIdx.x));
  if (tile.owner < 0) return;
  const Factors<T> f = FactorsOf<T>(delta, tile.owner);
  if (f.rank == 0) return;
  const int32_t height = tile.end - tile.begin, n0 = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t width = static_cast<int32_t>(kBackward ? delta.in : delta.out);
  const auto left = MakeOperand(u + tile.begin * delta.rank, delta.rank, height, f.rank, f.gain);
  const float* sums;
  if constexpr (kBackward) {
    const auto right = MakeOperand(f.a, delta.in, f.rank, width);
    sums = MultiplyTile<T, false, true>(left, 0, right, n0, f.rank, height, shared);
  } else {
    const auto right = MakeOperand(f.b, f.b_stride, width, f.rank);
    sums = MultiplyTile<T, false, false>(left, 0, right, n0, f.rank, height, shared);
  }
  const float scale = kBackward ? 1.0f : f.scale;
  AddTile<Y, N>(tile, n0, width, scale, sums, y);
}

// da = (gain v)^T x, or (kOfB) db = scale dy^T (gain u), one slot a block row; tokens in their order.
template <typename T, bool kOfB>
__global__ void __launch_bounds__(kTileThreads)
    ValuesKernel(Segments segments, LowRank delta, const T* wide, const T* narrow, float* to,
                 int64_t to_stride, bool accumulate) {
  SELFEDIT_DYNAMIC_SHARED(shared);
  const int32_t s = static_cast<int32_t>(blockIdx.z), begin = segments.offsets[s];
  const int32_t tokens = segments.offsets[s + 1] - begin;
  if (tokens == 0 && accumulate) return;
  const Factors<T> f = FactorsOf<T>(delta, s);
  const int32_t R = static_cast<int32_t>(delta.rank);
  const int32_t width = static_cast<int32_t>(kOfB ? delta.out : delta.in);
  const int32_t m0 = static_cast<int32_t>(blockIdx.y) * kTile, n0 = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t rows = kOfB ? width : R, columns = kOfB ? R : width;
  const int32_t height = rows - m0 < kTile ? rows - m0 : kTile;
  const auto ranked = MakeOperand(narrow + static_cast<int64_t>(begin) * R, R, tokens, R, f.gain);
  const auto full = MakeOperand(wide + static_cast<int64_t>(begin) * width, width, tokens, width);
  const float* sums =
      MultiplyTile<T, true, true>(kOfB ? full : ranked, m0, kOfB ? ranked : full, n0, tokens, height, shared);
  const float scale = kOfB ? f.scale : 1.0f;
  for (int p = static_cast<int>(threadIdx.x); p < height * kTile; p += kTileThreads) {
    const int32_t r = p / kTile, c = p % kTile;
    if (n0 + c >= columns) continue;
    float* place = to + s * to_stride + static_cast<int64_t>(m0 + r) * columns + n0 + c;
    *place = (accumulate ? *place : 0.0f) + scale * sums[r * kSumStride + c];
  }
}

template <typename T>
__global__ void __launch_bounds__(kMostRank)
    GainKernel(Segments segments, int32_t R, const T* u, const T* v, LowRankGradient gradient) {
  const int32_t s = static_cast<int32_t>(blockIdx.x), j = static_cast<int32_t>(threadIdx.x);
  if (j >= R) return;
  float sum = 0;
  for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
    sum += ToFloat(u[t * R + j]) * ToFloat(v[t * R + j]);
  }
  float* place = gradient.dgain + s * gradient.dgain_stride + j;
  *place = (gradient.accumulate ? *place : 0.0f) + sum;
}

template <bool kBackward>
void Shrink(Type type, const Segments& segments, const LowRank& delta, const void* x, void* u,
            Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(ShrinkKernel<T, kBackward>, TileGrid(segments, delta.rank), kTileThreads, kTileShared, stream,
           segments, delta, static_cast<const T*>(x), static_cast<T*>(u));
  });
}

template <bool kBackward>
void Expand(Type type, Type y_type, const Segments& segments, const LowRank& delta, const void* u, void* y,
            Stream stream) {
  const int64_t width = kBackward ? delta.in : delta.out;
  TypedResult(type, y_type, [&](auto tag, auto result) {
    using T = typename decltype(tag)::Element;
    using Y = typename decltype(result)::Element;
    constexpr int N = kPackOf<Y>;
    const auto kernel =
        Aligned(N, width, y) ? ExpandKernel<T, Y, kBackward, N> : ExpandKernel<T, Y, kBackward, 1>;
    Launch(kernel, TileGrid(segments, width), kTileThreads, kTileShared, stream, segments, delta,
           static_cast<const T*>(u), static_cast<Y*>(y));
  });
}

}  // namespace

void LowRankShrink(Type type, const Segments& segments, const LowRank& delta, const void* x, void* u,
                   Stream stream) {
  Shrink<false>(type, segments, delta, x, u, stream);
}
void LowRankShrinkBackward(Type type, const Segments& segments, const LowRank& delta, const void* dy, void* v,
                           Stream stream) {
  Shrink<true>(type, segments, delta, dy, v, stream);
}
void LowRankExpand(Type type, Type y_type, const Segments& segments, const LowRank& delta, const void* u,
                   void* y, Stream stream) {
  Expand<false>(type, y_type, segments, delta, u, y, stream);
}
void LowRankExpandBackward(Type type, const Segments& segments, const LowRank& delta, const void* v, void* dx,
                           Stream stream) {
  Expand<true>(type, type, segments, delta, v, dx, stream);
}

void LowRankBackwardValues(Type type, const Segments& segments, const LowRank& delta, const void* x,
                           const void* dy, const void* u, const void* v, const LowRankGradient& gradient,
                           Stream stream) {
  const unsigned slots = static_cast<unsigned>(segments.slots), across = Blocks(delta.rank, kTile);
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    const T* us = static_cast<const T*>(u);
    const T* vs = static_cast<const T*>(v);
    if (gradient.da != nullptr) {
      Launch(ValuesKernel<T, false>, dim3(Blocks(delta.in, kTile), across, slots), kTileThreads, kTileShared,
             stream, segments, delta, static_cast<const T*>(x), vs, gradient.da, gradient.da_stride,
             gradient.accumulate);
    }
    if (gradient.db != nullptr) {
      Launch(ValuesKernel<T, true>, dim3(across, Blocks(delta.out, kTile), slots), kTileThreads, kTileShared,
             stream, segments, delta, static_cast<const T*>(dy), us, gradient.db, gradient.db_stride,
             gradient.accumulate);
    }
    if (gradient.dgain != nullptr) {
      Launch(GainKernel<T>, dim3(slots), static_cast<int>(kMostRank), 0, stream, segments,
             static_cast<int32_t>(delta.rank), us, vs, gradient);
    }
  });
}

}  // namespace selfedit::cuda
