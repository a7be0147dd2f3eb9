// Slow twin of kernels/lookup.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

double ScaleOf(const float* scale, int64_t s) { return scale == nullptr ? 1 : scale[s]; }

// body(segment, t) for the rows of segments whose token has a row.
template <typename Body>
void ForKnown(const Segments& segments, const int32_t* token, int64_t out, Body body) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      if (token[t] >= 0 && token[t] < out) body(s, t);
    }
  }
}

void Add(Type type, void* to, int64_t i, double x) { Store(type, to, i, Load(type, to, i) + x); }

}  // namespace

void LowRankLookup(Type type, const Segments& segments, const LowRank& delta, const int32_t* token, void* v,
                   Stream) {
  const int64_t R = delta.rank;
  for (int64_t s = 0; s < segments.slots; ++s) {
    const bool apart = delta.b_pointers != nullptr;
    const void* b = apart ? delta.b_pointers[s] : At(type, delta.b, s * delta.b_stride);
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      const bool known = token[t] >= 0 && token[t] < delta.out;
      const int64_t rank = !known || b == nullptr ? 0 : apart ? delta.ranks[s] : R;
      for (int64_t j = 0; j < R; ++j) {
        Store(type, v, t * R + j,
              j < rank ? ScaleOf(delta.scale, s) * Load(type, b, token[t] * rank + j) : 0);
      }
    }
  }
}

void SparseLookup(Type type, const Segments& segments, const Sparse& delta, const int32_t* token, void* y,
                  Stream) {
  ForKnown(segments, token, delta.out, [&](int64_t s, int64_t t) {
    if (delta.row_offsets[s] == nullptr) return;
    for (int32_t e = delta.row_offsets[s][token[t]]; e < delta.row_offsets[s][token[t] + 1]; ++e) {
      Add(type, y, t * delta.in + delta.columns[s][e],
          ScaleOf(delta.scale, s) * Load(type, delta.values[s], e));
    }
  });
}

void DenseLookup(Type type, const Segments& segments, const Dense& delta, const int32_t* token, void* y,
                 Stream) {
  ForKnown(segments, token, delta.out, [&](int64_t s, int64_t t) {
    for (int64_t j = 0; j < delta.in && delta.values[s] != nullptr; ++j) {
      Add(type, y, t * delta.in + j,
          ScaleOf(delta.scale, s) * Load(type, delta.values[s], token[t] * delta.in + j));
    }
  });
}

void SparseLookupBackward(Type type, const Segments& segments, const Sparse& delta, const int32_t* token,
                          const void* dy, float* const* dvalues, Stream) {
  ForKnown(segments, token, delta.out, [&](int64_t s, int64_t t) {
    if (delta.row_offsets[s] == nullptr || dvalues[s] == nullptr) return;
    for (int32_t e = delta.row_offsets[s][token[t]]; e < delta.row_offsets[s][token[t] + 1]; ++e) {
      dvalues[s][e] +=
          static_cast<float>(ScaleOf(delta.scale, s) * Load(type, dy, t * delta.in + delta.columns[s][e]));
    }
  });
}

void DenseLookupBackward(Type type, const Segments& segments, const Dense& delta, const int32_t* token,
                         const void* dy, float* const* dvalues, Stream) {
  ForKnown(segments, token, delta.out, [&](int64_t s, int64_t t) {
    for (int64_t j = 0; j < delta.in && dvalues[s] != nullptr; ++j) {
      dvalues[s][token[t] * delta.in + j] +=
          static_cast<float>(ScaleOf(delta.scale, s) * Load(type, dy, t * delta.in + j));
    }
  });
}

void VectorAdd(Type type, const Segments& segments, const float* const* vector, int64_t c, void* y, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (vector[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t j = 0; j < c; ++j) Add(type, y, t * c + j, vector[s][j]);
    }
  }
}

void VectorBackward(Type type, const Segments& segments, const void* dy, int64_t c, float* const* dvector,
                    bool accumulate, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    for (int64_t j = 0; j < c && dvector[s] != nullptr; ++j) {
      double sum = accumulate ? dvector[s][j] : 0;
      for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t)
        sum += Load(type, dy, t * c + j);
      dvector[s][j] = static_cast<float>(sum);
    }
  }
}

void VectorStack(const float* const* vector, int64_t slots, int64_t c, float* y, Stream) {
  for (int64_t s = 0; s < slots; ++s) {
    for (int64_t j = 0; j < c; ++j) y[s * c + j] = vector[s] == nullptr ? 0.0f : vector[s][j];
  }
}

}  // namespace selfedit::cuda
