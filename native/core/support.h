// The support of a sparse change: which entries of a weight it touches.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/delta.h"

namespace selfedit {

// density * count rounded up, at least 1. Throws OPTION_INVALID unless 0 < density <= 1.
int64_t SupportSize(double density, int64_t count);

// Flat indices, ascending, of the k largest |x|; ties keep the lower index. No entry may be NaN.
std::vector<int64_t> LargestEntries(const at::Tensor& x, int64_t k);

// A sparse part of an [out, in] weight, of scale 1, over ascending flat indices.
DeltaPart SparseFromIndices(int64_t matrix, int64_t out, int64_t in, const std::vector<int64_t>& indices,
                            const at::Tensor& values);

}  // namespace selfedit
