// Slow twin of kernels/norms.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

double WeightOf(Type type, const void* w, const NormGain& gain, int64_t i, int64_t j) {
  double weight = Load(type, w, j);
  const int64_t s = gain.gain == nullptr ? -1 : SlotOf(gain.segments, i / gain.heads);
  if (s >= 0 && gain.gain[s] != nullptr) weight += gain.gain[s][j];
  return weight;
}

}  // namespace

void RmsNormForward(Type type, void* x, const void* residual, const void* w, const NormGain& gain, int64_t n,
                    int64_t c, float eps, void* y, float* rstd, Stream) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = i * c; j < (i + 1) * c; ++j) {
      if (residual != nullptr) Store(type, x, j, Load(type, x, j) + Load(type, residual, j));
      sum += Load(type, x, j) * Load(type, x, j);
    }
    const double scale = 1 / std::sqrt(sum / static_cast<double>(c) + eps);
    if (rstd != nullptr) rstd[i] = static_cast<float>(scale);
    for (int64_t j = 0; j < c; ++j) {
      Store(type, y, i * c + j, Load(type, x, i * c + j) * scale * WeightOf(type, w, gain, i, j));
    }
  }
}

void RmsNormBackward(Type type, const void* x, const void* w, const NormGain& gain, const float* rstd,
                     const void* dy, int64_t n, int64_t c, bool accumulate, void* dx, Stream) {
  for (int64_t i = 0; i < n; ++i) {
    const auto g = [&](int64_t j) { return Load(type, dy, i * c + j) * WeightOf(type, w, gain, i, j); };
    double sum = 0;
    for (int64_t j = 0; j < c; ++j) sum += g(j) * Load(type, x, i * c + j);
    const double scale = rstd[i], pull = sum / static_cast<double>(c) * scale * scale;
    for (int64_t j = 0; j < c; ++j) {
      const int64_t place = i * c + j;
      const double before = accumulate ? Load(type, dx, place) : 0;
      Store(type, dx, place, before + scale * (g(j) - Load(type, x, place) * pull));
    }
  }
}

void RmsNormBackwardGain(Type type, const Segments& segments, int64_t heads, const void* x, const float* rstd,
                         const void* dy, int64_t c, float* const* dgain, bool accumulate, Stream) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    for (int64_t j = 0; j < c && dgain[s] != nullptr; ++j) {
      double sum = 0;
      for (int64_t i = segments.offsets[s] * heads; i < segments.offsets[s + 1] * heads; ++i) {
        sum += Load(type, dy, i * c + j) * Load(type, x, i * c + j) * rstd[i];
      }
      dgain[s][j] = static_cast<float>((accumulate ? dgain[s][j] : 0.0) + sum);
    }
  }
}

}  // namespace selfedit::cuda
