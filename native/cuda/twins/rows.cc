// Slow twin of kernels/rows.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {

using namespace host;

namespace {

struct Activated {
  double value, slope;
};
Activated Silu(double g) {
  const double s = 1 / (1 + std::exp(-g));
  return {g * s, s * (1 + g * (1 - s))};
}
// g (1 + tanh(a)) / 2
Activated GeluTanh(double g) {
  const double root = std::sqrt(2 / M_PI), t = std::tanh(root * (g + 0.044715 * g * g * g));
  return {g * (1 + t) / 2, (1 + t) / 2 + g / 2 * (1 - t * t) * root * (1 + 3 * 0.044715 * g * g)};
}

void Glu(Activated (*activation)(double), Type type, const void* gate, const void* up, int64_t stride,
         int64_t n, int64_t f, void* y) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < f; ++j) {
      const int64_t at = i * stride + j;
      Store(type, y, i * f + j, activation(Load(type, gate, at)).value * Load(type, up, at));
    }
  }
}

void GluBackward(Activated (*activation)(double), Type type, const void* gate, const void* up, int64_t stride,
                 const void* dy, int64_t n, int64_t f, void* dgate, void* dup) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < f; ++j) {
      const int64_t at = i * stride + j;
      const Activated a = activation(Load(type, gate, at));
      const double u = Load(type, up, at), d = Load(type, dy, i * f + j);
      Store(type, dgate, at, d * u * a.slope);
      Store(type, dup, at, d * a.value);
    }
  }
}

}  // namespace

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
  Glu(Silu, type, gate, up, stride, n, f, y);
}
void SwiGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                    int64_t f, void* dgate, void* dup, Stream) {
  GluBackward(Silu, type, gate, up, stride, dy, n, f, dgate, dup);
}
void GeGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                  Stream) {
  Glu(GeluTanh, type, gate, up, stride, n, f, y);
}
void GeGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                   int64_t f, void* dgate, void* dup, Stream) {
  GluBackward(GeluTanh, type, gate, up, stride, dy, n, f, dgate, dup);
}

void Scale(Type type, void* x, float factor, int64_t count, Stream) {
  for (int64_t i = 0; i < count; ++i) Store(type, x, i, Load(type, x, i) * factor);
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
