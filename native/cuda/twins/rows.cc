// Slow twin of kernels/rows.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {

using namespace host;

void Rope(Type type, void* x, int64_t stride, const int32_t* position, const float* cos, const float* sin,
          int64_t n, int64_t heads, int64_t d, int sign, Stream) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < d / 2; ++j) {
        const int64_t low = i * stride + h * d + j, high = low + d / 2, angle = position[i] * (d / 2) + j;
        const double a = Load(type, x, low), b = Load(type, x, high), c = cos[angle], s = sign * sin[angle];
        Store(type, x, low, a * c - b * s);
        Store(type, x, high, b * c + a * s);
      }
    }
  }
}

void SwiGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                   Stream) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < f; ++j) {
      const double g = Load(type, gate, i * stride + j);
      Store(type, y, i * f + j, g / (1 + std::exp(-g)) * Load(type, up, i * stride + j));
    }
  }
}

void SwiGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                    int64_t f, void* dgate, void* dup, Stream) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < f; ++j) {
      const double g = Load(type, gate, i * stride + j), u = Load(type, up, i * stride + j);
      const double d = Load(type, dy, i * f + j), s = 1 / (1 + std::exp(-g));
      Store(type, dgate, i * stride + j, d * u * s * (1 + g * (1 - s)));
      Store(type, dup, i * stride + j, d * g * s);
    }
  }
}

void BiasAdd(Type type, void* x, const void* bias, int64_t n, int64_t c, Stream) {
  for (int64_t i = 0; i < n * c; ++i) Store(type, x, i, Load(type, x, i) + Load(type, bias, i % c));
}

void ResidualAdd(Type type, void* x, const void* y, int64_t count, Stream) {
  for (int64_t i = 0; i < count; ++i) Store(type, x, i, Load(type, x, i) + Load(type, y, i));
}

void Embed(Type type, const void* table, const int32_t* token, int64_t n, int64_t c, int64_t V, void* x,
           Stream) {
  for (int64_t i = 0; i < n; ++i) {
    const bool known = token[i] >= 0 && token[i] < V;
    for (int64_t j = 0; j < c; ++j)
      Store(type, x, i * c + j, known ? Load(type, table, token[i] * c + j) : 0);
  }
}

}  // namespace selfedit::cuda
