// Rows of changes by token (embeddings), and vectors of segments. One block a row of the batch; the first of
// a segment's equal tokens adds up the gradients of all of them, in their order.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kThreads = 128;

// What a block's row looks up; segment -1: nothing.
struct Place {
  int32_t segment, token;
};
__device__ inline Place PlaceOf(const Segments& segments, const int32_t* token, int64_t out, int64_t t) {
  const int32_t segment = SegmentOf(segments, t);
  const bool known = segment >= 0 && token[t] >= 0 && token[t] < out;
  return {known ? segment : -1, known ? token[t] : 0};
}

__device__ inline float ScaleOf(const float* scale, int32_t segment) {
  return scale == nullptr ? 1.0f : scale[segment];
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    LowRankLookupKernel(Segments segments, LowRank delta, const int32_t* token, T* v) {
  const int64_t t = blockIdx.x, R = delta.rank;
  const int32_t segment = SegmentOf(segments, t);
  if (segment < 0) return;
  const T* b;
  int64_t rank = R;
  if (delta.b_pointers != nullptr) {
    b = static_cast<const T*>(delta.b_pointers[segment]);
    rank = b == nullptr ? 0 : delta.ranks[segment];
  } else {
    b = static_cast<const T*>(delta.b) + segment * delta.b_stride;
  }
  if (token[t] < 0 || token[t] >= delta.out) rank = 0;
  const float scale = ScaleOf(delta.scale, segment);
  for (int64_t j = threadIdx.x; j < R; j += kThreads) {
    v[t * R + j] = FromFloat<T>(j < rank ? scale * ToFloat(b[token[t] * rank + j]) : 0.0f);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    SparseLookupKernel(Segments segments, Sparse delta, const int32_t* token, T* y) {
  const int64_t t = blockIdx.x;
  const Place place = PlaceOf(segments, token, delta.out, t);
  if (place.segment < 0 || delta.row_offsets[place.segment] == nullptr) return;
  const int32_t* offsets = delta.row_offsets[place.segment];
  const int32_t* columns = delta.columns[place.segment];
  const T* values = static_cast<const T*>(delta.values[place.segment]);
  const float scale = ScaleOf(delta.scale, place.segment);
  for (int32_t e = offsets[place.token] + static_cast<int32_t>(threadIdx.x); e < offsets[place.token + 1];
       e += kThreads) {
    T* to = y + t * delta.in + columns[e];
    *to = FromFloat<T>(ToFloat(*to) + scale * ToFloat(values[e]));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    DenseLookupKernel(Segments segments, Dense delta, const int32_t* token, T* y) {
  const int64_t t = blockIdx.x;
  const Place place = PlaceOf(segments, token, delta.out, t);
  if (place.segment < 0 || delta.values[place.segment] == nullptr) return;
  const T* row = static_cast<const T*>(delta.values[place.segment]) + place.token * delta.in;
  const float scale = ScaleOf(delta.scale, place.segment);
  for (int64_t j = threadIdx.x; j < delta.in; j += kThreads) {
    T* to = y + t * delta.in + j;
    *to = FromFloat<T>(ToFloat(*to) + scale * ToFloat(row[j]));
  }
}

// Whether an earlier row of the segment has the same token. All threads call it.
__device__ inline bool HasEarlier(const Segments& segments, const Place& place, const int32_t* token,
                                  int64_t t) {
  int32_t same = 0;
  for (int64_t i = segments.offsets[place.segment] + threadIdx.x; i < t; i += kThreads) {
    same += token[i] == place.token;
  }
  return BlockSum<kThreads>(same) > 0;
}

// Sum of column j of dy over the rows of the segment from t on that have the token, in their order.
template <typename T>
__device__ inline float SumOf(const Segments& segments, const Place& place, const int32_t* token, int64_t t,
                              const T* dy, int64_t width, int64_t j) {
  float sum = 0;
  for (int64_t i = t; i < segments.offsets[place.segment + 1]; ++i) {
    if (token[i] == place.token) sum += ToFloat(dy[i * width + j]);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    SparseLookupValuesKernel(Segments segments, Sparse delta, const int32_t* token, const T* dy,
                             float* const* dvalues) {
  const int64_t t = blockIdx.x;
  const Place place = PlaceOf(segments, token, delta.out, t);
  if (place.segment < 0 || dvalues[place.segment] == nullptr) return;
  if (delta.row_offsets[place.segment] == nullptr || HasEarlier(segments, place, token, t)) return;
  const int32_t* offsets = delta.row_offsets[place.segment];
  const float scale = ScaleOf(delta.scale, place.segment);
  for (int32_t e = offsets[place.token] + static_cast<int32_t>(threadIdx.x); e < offsets[place.token + 1];
       e += kThreads) {
    dvalues[place.segment][e] +=
        scale * SumOf(segments, place, token, t, dy, delta.in, delta.columns[place.segment][e]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    DenseLookupValuesKernel(Segments segments, Dense delta, const int32_t* token, const T* dy,
                            float* const* dvalues) {
  const int64_t t = blockIdx.x;
  const Place place = PlaceOf(segments, token, delta.out, t);
  if (place.segment < 0 || dvalues[place.segment] == nullptr) return;
  if (HasEarlier(segments, place, token, t)) return;
  float* row = dvalues[place.segment] + place.token * delta.in;
  const float scale = ScaleOf(delta.scale, place.segment);
  for (int64_t j = threadIdx.x; j < delta.in; j += kThreads) {
    row[j] += scale * SumOf(segments, place, token, t, dy, delta.in, j);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    VectorAddKernel(Segments segments, const float* const* vector, int64_t c, T* y) {
  const int64_t t = blockIdx.x;
  const int32_t segment = SegmentOf(segments, t);
  if (segment < 0 || vector[segment] == nullptr) return;
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    y[t * c + j] = FromFloat<T>(ToFloat(y[t * c + j]) + vector[segment][j]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    VectorSumKernel(Segments segments, const T* dy, int64_t c, float* const* dvector, bool accumulate) {
  const int64_t s = blockIdx.y, j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= c || dvector[s] == nullptr) return;
  float sum = 0;
  for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) sum += ToFloat(dy[t * c + j]);
  dvector[s][j] = (accumulate ? dvector[s][j] : 0.0f) + sum;
}

__global__ void __launch_bounds__(kThreads)
    VectorStackKernel(const float* const* vector, int64_t c, float* y) {
  const int64_t s = blockIdx.x;
  for (int64_t j = threadIdx.x; j < c; j += kThreads) {
    y[s * c + j] = vector[s] == nullptr ? 0.0f : vector[s][j];
  }
}

dim3 RowGrid(const Segments& segments) { return {static_cast<unsigned>(segments.tokens), 1, 1}; }

}  // namespace

void LowRankLookup(Type type, const Segments& segments, const LowRank& delta, const int32_t* token, void* v,
                   Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(LowRankLookupKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, delta, token,
           static_cast<T*>(v));
  });
}

void SparseLookup(Type type, const Segments& segments, const Sparse& delta, const int32_t* token, void* y,
                  Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(SparseLookupKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, delta, token,
           static_cast<T*>(y));
  });
}

void DenseLookup(Type type, const Segments& segments, const Dense& delta, const int32_t* token, void* y,
                 Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(DenseLookupKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, delta, token,
           static_cast<T*>(y));
  });
}

void SparseLookupBackward(Type type, const Segments& segments, const Sparse& delta, const int32_t* token,
                          const void* dy, float* const* dvalues, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(SparseLookupValuesKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, delta, token,
           static_cast<const T*>(dy), dvalues);
  });
}

void DenseLookupBackward(Type type, const Segments& segments, const Dense& delta, const int32_t* token,
                         const void* dy, float* const* dvalues, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(DenseLookupValuesKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, delta, token,
           static_cast<const T*>(dy), dvalues);
  });
}

void VectorAdd(Type type, const Segments& segments, const float* const* vector, int64_t c, void* y,
               Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(VectorAddKernel<T>, RowGrid(segments), kThreads, 0, stream, segments, vector, c,
           static_cast<T*>(y));
  });
}

void VectorBackward(Type type, const Segments& segments, const void* dy, int64_t c, float* const* dvector,
                    bool accumulate, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(VectorSumKernel<T>, dim3(Blocks(c, kThreads), static_cast<unsigned>(segments.slots)), kThreads, 0,
           stream, segments, static_cast<const T*>(dy), c, dvector, accumulate);
  });
}

void VectorStack(const float* const* vector, int64_t slots, int64_t c, float* y, Stream stream) {
  Launch(VectorStackKernel, dim3(static_cast<unsigned>(slots)), kThreads, 0, stream, vector, c, y);
}

}  // namespace selfedit::cuda
