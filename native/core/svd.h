// Singular values of matrices that are given whole, as a product of thin factors, or only by their products.
// All in float64.
#pragma once
#include <ATen/ATen.h>

#include <functional>

#include "core/algebra.h"

namespace selfedit {

// All triplets of a [out, in], as many as its smaller side.
SpectralFactors DenseSvd(const at::Tensor& a);
// Of b a, b [out, r], a [r, in], without making it: by QR of both and the SVD of the small core. Triplets: as
// many as min(out, in, r).
SpectralFactors ProductSvd(const at::Tensor& b, const at::Tensor& a);

// The largest singular value of a matrix [out, in] by Lanczos bidiagonalisation (Golub, Kahan) with full
// reorthogonalisation, from a keyed start; until it stands still to 1e-14 of itself, or after
// kMostLanczosSteps.
using Product = std::function<at::Tensor(const at::Tensor&)>;
constexpr int64_t kMostLanczosSteps = 400;
double LargestSingularValue(int64_t out, int64_t in, const Product& times, const Product& transposed_times);

// Standard normal draws, each a function of (key, index) alone.
at::Tensor KeyedNormal(std::vector<int64_t> shape, uint64_t key);

}  // namespace selfedit
