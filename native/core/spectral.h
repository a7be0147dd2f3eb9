// Singular factors of a model's weights, made once and kept with the model.
#pragma once
#include <string>

#include "core/algebra.h"

namespace selfedit {

// The leading `rank` triplets of a weight in the model's activation type: from the model's own memory, else
// from the folder (empty: none), else by randomised SVD. Compute thread only.
const SpectralFactors& FactorsOf(const Model& model, int64_t matrix, int64_t rank, const std::string& folder);

}  // namespace selfedit
