// Slow twin of kernels/segment_sparse.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

double ScaleOf(const Sparse& delta, int64_t s) { return delta.scale == nullptr ? 1 : delta.scale[s]; }

}  // namespace

void SparseForward(Type type, Type y_type, const Segments& segments, const Sparse& delta, const void* x,
                   void* y, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (delta.row_offsets[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t o = 0; o < delta.out; ++o) {
        double sum = 0;
        for (int32_t e = delta.row_offsets[s][o]; e < delta.row_offsets[s][o + 1]; ++e) {
          sum += Load(type, delta.values[s], e) * Load(type, x, t * delta.in + delta.columns[s][e]);
        }
        const int64_t place = t * delta.out + o;
        Store(y_type, y, place, Load(y_type, y, place) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

void SparseBackwardInput(Type type, const Segments& segments, const Sparse& delta, const void* dy, void* dx,
                         Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (delta.column_offsets[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t i = 0; i < delta.in; ++i) {
        double sum = 0;
        for (int32_t e = delta.column_offsets[s][i]; e < delta.column_offsets[s][i + 1]; ++e) {
          sum += Load(type, delta.values[s], delta.order[s][e]) *
                 Load(type, dy, t * delta.out + delta.rows[s][e]);
        }
        const int64_t place = t * delta.in + i;
        Store(type, dx, place, Load(type, dx, place) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

void SparseBackwardValues(Type type, const Segments& segments, const Sparse& delta, const void* x,
                          const void* dy, float* const* dvalues, bool accumulate, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (delta.row_offsets[s] == nullptr || dvalues[s] == nullptr) continue;
    for (int64_t o = 0; o < delta.out; ++o) {
      for (int32_t e = delta.row_offsets[s][o]; e < delta.row_offsets[s][o + 1]; ++e) {
        double sum = 0;
        for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
          sum += Load(type, dy, t * delta.out + o) * Load(type, x, t * delta.in + delta.columns[s][e]);
        }
        dvalues[s][e] = static_cast<float>((accumulate ? dvalues[s][e] : 0.0) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

}  // namespace selfedit::cuda
