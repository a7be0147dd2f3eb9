// Slow twin of kernels/segment_lowrank.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

struct Factors {
  const void* a = nullptr;
  const void* b = nullptr;
  const float* gain = nullptr;
  int64_t rank = 0;
  double scale = 1;
  double A(Type type, int64_t j, int64_t i, const LowRank& d) const { return Load(type, a, j * d.in + i); }
  double B(Type type, int64_t o, int64_t j) const { return Load(type, b, o * rank + j); }
  // w[j] = gain[j] u[j], rounded where there is a gain.
  double Gained(Type type, double u, int64_t j) const {
    return gain == nullptr ? u : Round(type, u * gain[j]);
  }
};

Factors FactorsOf(Type type, const LowRank& delta, int64_t s) {
  Factors f;
  f.scale = delta.scale == nullptr ? 1 : delta.scale[s];
  if (delta.gain_pointers != nullptr) {
    f.gain = delta.gain_pointers[s];
  } else if (delta.gain != nullptr) {
    f.gain = delta.gain + s * delta.gain_stride;
  }
  if (delta.a_pointers != nullptr) {
    f.a = delta.a_pointers[s];
    f.b = delta.b_pointers[s];
    f.rank = f.a == nullptr || f.b == nullptr ? 0 : delta.ranks[s];
  } else {
    f.a = At(type, delta.a, s * delta.a_stride);
    f.b = At(type, delta.b, s * delta.b_stride);
    f.rank = delta.rank;
  }
  return f;
}

template <typename Body>
void ForTokens(const Segments& segments, Body body) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) body(s, t);
  }
}

}  // namespace

void LowRankShrink(Type type, const Segments& segments, const LowRank& delta, const void* x, void* u,
                   Stream) {
  ForTokens(segments, [&](int64_t s, int64_t t) {
    const Factors f = FactorsOf(type, delta, s);
    for (int64_t j = 0; j < delta.rank; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < delta.in && j < f.rank; ++i) {
        sum += f.A(type, j, i, delta) * Load(type, x, t * delta.in + i);
      }
      Store(type, u, t * delta.rank + j, sum);
    }
  });
}

void LowRankShrinkBackward(Type type, const Segments& segments, const LowRank& delta, const void* dy, void* v,
                           Stream) {
  ForTokens(segments, [&](int64_t s, int64_t t) {
    const Factors f = FactorsOf(type, delta, s);
    for (int64_t j = 0; j < delta.rank; ++j) {
      double sum = 0;
      for (int64_t o = 0; o < delta.out && j < f.rank; ++o) {
        sum += f.B(type, o, j) * Load(type, dy, t * delta.out + o);
      }
      Store(type, v, t * delta.rank + j, f.scale * sum);
    }
  });
}

void LowRankExpand(Type type, Type y_type, const Segments& segments, const LowRank& delta, const void* u,
                   void* y, Stream) {
  ForTokens(segments, [&](int64_t s, int64_t t) {
    const Factors f = FactorsOf(type, delta, s);
    if (f.rank == 0) return;
    for (int64_t o = 0; o < delta.out; ++o) {
      double sum = 0;
      for (int64_t j = 0; j < f.rank; ++j) {
        sum += f.B(type, o, j) * f.Gained(type, Load(type, u, t * delta.rank + j), j);
      }
      const int64_t place = t * delta.out + o;
      Store(y_type, y, place, Load(y_type, y, place) + f.scale * sum);
    }
  });
}

void LowRankExpandBackward(Type type, const Segments& segments, const LowRank& delta, const void* v, void* dx,
                           Stream) {
  ForTokens(segments, [&](int64_t s, int64_t t) {
    const Factors f = FactorsOf(type, delta, s);
    if (f.rank == 0) return;
    for (int64_t i = 0; i < delta.in; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < f.rank; ++j) {
        sum += f.A(type, j, i, delta) * f.Gained(type, Load(type, v, t * delta.rank + j), j);
      }
      const int64_t place = t * delta.in + i;
      Store(type, dx, place, Load(type, dx, place) + sum);
    }
  });
}

void LowRankBackwardValues(Type type, const Segments& segments, const LowRank& delta, const void* x,
                           const void* dy, const void* u, const void* v, const LowRankGradient& gradient,
                           Stream) {
  const int64_t R = delta.rank;
  for (int64_t s = 0; s < segments.slots; ++s) {
    const Factors f = FactorsOf(type, delta, s);
    const int64_t first = segments.offsets[s], last = segments.offsets[s + 1];
    const auto put = [&](float* place, double sum) {
      *place = static_cast<float>((gradient.accumulate ? *place : 0.0) + sum);
    };
    for (int64_t j = 0; j < R; ++j) {
      for (int64_t i = 0; i < delta.in && gradient.da != nullptr; ++i) {
        double sum = 0;
        for (int64_t t = first; t < last; ++t) {
          sum += f.Gained(type, Load(type, v, t * R + j), j) * Load(type, x, t * delta.in + i);
        }
        put(gradient.da + s * gradient.da_stride + j * delta.in + i, sum);
      }
      for (int64_t o = 0; o < delta.out && gradient.db != nullptr; ++o) {
        double sum = 0;
        for (int64_t t = first; t < last; ++t) {
          sum += Load(type, dy, t * delta.out + o) * f.Gained(type, Load(type, u, t * R + j), j);
        }
        put(gradient.db + s * gradient.db_stride + o * R + j, f.scale * sum);
      }
      if (gradient.dgain == nullptr) continue;
      double sum = 0;
      for (int64_t t = first; t < last; ++t) sum += Load(type, u, t * R + j) * Load(type, v, t * R + j);
      put(gradient.dgain + s * gradient.dgain_stride + j, sum);
    }
  }
}

}  // namespace selfedit::cuda
