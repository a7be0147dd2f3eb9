// What the operations on deltas share.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"

namespace selfedit {

// The same part with all floating values in float64.
DeltaPart Widened(const DeltaPart& part);
// By matrix id, then kind; checked against the model.
DeltaPtr Finished(const Model& model, std::vector<DeltaPart> parts);
// The parts of each matrix of a delta, in order.
std::vector<std::vector<DeltaPart>> ByMatrix(const Delta& delta);

}  // namespace selfedit
