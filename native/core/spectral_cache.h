// Singular factors of weights on disk: they cost seconds to make and are functions of the weight alone.
#pragma once
#include <string>

#include "core/algebra.h"

namespace selfedit {

// The leading `rank` triplets of a weight in the model's activation type: read from the folder, or made by
// RandomisedSvd and written there (atomically). The file's name is made of the SHA-256 of the weight's type,
// shape and bytes, the rank and the type of the factors. A file that is damaged or holds something else is
// replaced; a folder that cannot be written costs time, not the result. Empty folder: no disk. Throws
// DELTA_SHAPE as RandomisedSvd does.
SpectralFactors LoadOrMakeFactors(const Model& model, int64_t matrix, int64_t rank,
                                  const std::string& folder);

}  // namespace selfedit
