#include "core/spectral.h"

#include "core/spectral_cache.h"

namespace selfedit {

const SpectralFactors& FactorsOf(const Model& model, int64_t matrix, int64_t rank,
                                 const std::string& folder) {
  if (matrix < 0 || matrix >= static_cast<int64_t>(model.tensors().size())) {
    throw Error("TARGET_UNKNOWN", "there is no matrix with id " + std::to_string(matrix));
  }
  const MatrixInfo& info = model.tensors()[matrix];
  if (info.vector()) {
    throw Error("TARGET_UNKNOWN", "\"" + info.name + "\" is a vector; a spectral change needs a matrix");
  }
  const int64_t most = std::min(info.out, info.in);
  if (rank < 1 || rank > most) {
    throw Error("DELTA_SHAPE", "\"" + info.name + "\": there are " + std::to_string(rank) +
                                   " scales; the weight has 1 to " + std::to_string(most) +
                                   " singular values");
  }
  auto& held = model.spectral_factors()[{matrix, rank}];
  if (!held) {
    auto made = std::make_shared<SpectralFactors>(LoadOrMakeFactors(model, matrix, rank, folder));
    const auto options = model.options();
    made->u = made->u.to(options).contiguous();
    made->sigma = made->sigma.to(options).contiguous();
    made->v = made->v.to(options).contiguous();
    held = std::move(made);
  }
  return *held;
}

}  // namespace selfedit
