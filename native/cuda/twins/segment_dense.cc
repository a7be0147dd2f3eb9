// Slow twin of kernels/segment_dense.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {
using namespace host;
double ScaleOf(const Dense& delta, int64_t s) { return delta.scale == nullptr ? 1 : delta.scale[s]; }
}  // namespace

void DenseForward(Type type, Type y_type, const Segments& segments, const Dense& delta, const void* x,
                  void* y, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (delta.values[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t o = 0; o < delta.out; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < delta.in; ++i) {
          sum += Load(type, delta.values[s], o * delta.in + i) * Load(type, x, t * delta.in + i);
        }
        const int64_t place = t * delta.out + o;
        Store(y_type, y, place, Load(y_type, y, place) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

void DenseBackwardInput(Type type, const Segments& segments, const Dense& delta, const void* dy, void* dx,
                        Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (delta.values[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t i = 0; i < delta.in; ++i) {
        double sum = 0;
        for (int64_t o = 0; o < delta.out; ++o) {
          sum += Load(type, delta.values[s], o * delta.in + i) * Load(type, dy, t * delta.out + o);
        }
        const int64_t place = t * delta.in + i;
        Store(type, dx, place, Load(type, dx, place) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

void DenseBackwardValues(Type type, const Segments& segments, const Dense& delta, const void* x,
                         const void* dy, float* const* dvalues, bool accumulate, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (dvalues[s] == nullptr) continue;
    for (int64_t o = 0; o < delta.out; ++o) {
      for (int64_t i = 0; i < delta.in; ++i) {
        double sum = 0;
        for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
          sum += Load(type, dy, t * delta.out + o) * Load(type, x, t * delta.in + i);
        }
        float* place = dvalues[s] + o * delta.in + i;
        *place = static_cast<float>((accumulate ? *place : 0.0) + ScaleOf(delta, s) * sum);
      }
    }
  }
}

void CopiedRowsForward(Type type, const Segments& segments, const CopiedRows& rows, const void* x, void* y,
                       Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (rows.weights[s] == nullptr) continue;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      for (int64_t o = 0; o < rows.count[s]; ++o) {
        double sum = rows.bias == nullptr ? 0 : Load(type, rows.bias, rows.first[s] + o);
        for (int64_t i = 0; i < rows.in; ++i) {
          sum += Load(type, rows.weights[s], o * rows.in + i) * Load(type, x, t * rows.in + i);
        }
        Store(type, y, t * rows.out + rows.first[s] + o, sum);
      }
    }
  }
}

}  // namespace selfedit::cuda
