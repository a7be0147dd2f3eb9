// Operations on deltas that give new deltas. They compute in float64 and round at the end to the model's
// activation type; nothing is changed in place.
#pragma once
#include <optional>
#include <vector>

#include "core/delta.h"
#include "core/model.h"

namespace selfedit {

// scale_0 D_0 + scale_1 D_1 + …: low-rank parts of one matrix are concatenated (ranks add up), sparse ones
// united, dense ones and spectral ones of the same factors summed; spectral ones of other factors become
// low-rank parts. Kinds of one matrix stay side by side. Values are rounded only where the scales differ or
// values are added; a part that is alone keeps its values as they are, under another scale.
DeltaPtr AddDeltas(const Model& model, const DeltaStack& terms);

// Low-rank parts to their best approximation of at most `rank` (0: no limit) by the singular values, and of
// no more than it takes to keep the part `energy` (of the sum of squared singular values; 0: no such rule) of
// each. Singular values that are 0 up to rounding are never kept. Dense parts of matrices become low-rank
// ones, together with a low-rank part of the same matrix; other parts are kept. B = U sqrt(sigma), A =
// sqrt(sigma) V^T. (Eckart–Young: the error in the Frobenius norm is the root of the squared singular values
// left out.) Throws OPTION_INVALID.
DeltaPtr TruncateDelta(const Model& model, const Delta& delta, int64_t rank, double energy);

// The k largest of |D| of each matrix (the sum of its parts), k = density * out * in rounded up, as one
// sparse part of scale 1; ties keep the lower index, zeros are left out. Throws OPTION_INVALID unless 0 <
// density <= 1.
DeltaPtr SparsifyDelta(const Model& model, const Delta& delta, double density);

// What must be added to `from` to get `to` (effective weights): the deltas that both stacks begin with
// cancel; the rest is added with its sign.
DeltaPtr DeltaDifference(const Fork& to, const Fork& from);

struct PartStatistics {
  int64_t matrix = 0;
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t values = 0;   // numbers that it stores of its own
  double norm = 0;      // Frobenius norm of scale * D
  double relative = 0;  // norm / Frobenius norm of W; 0 / 0 is 0
  double largest = 0;   // largest |scale * D|
  double spectral = 0;  // largest singular value of scale * D
};
std::vector<PartStatistics> DeltaStatistics(const Model& model, const Delta& delta);

// The leading `rank` singular triplets of a weight, by randomised SVD (Halko, Martinsson, Tropp, arXiv
// 0909.4061; power iterations with reorthonormalisation, keyed start). Signs are fixed: the largest |entry|
// of each column of U is positive.
struct SpectralFactors {
  at::Tensor u, sigma, v;  // [out, r], [r] descending, [r, in]
};
// In float64, rounded to float32 unless the weight is float64. Throws DELTA_SHAPE.
SpectralFactors RandomisedSvd(const at::Tensor& weight, int64_t rank, uint64_t key);

}  // namespace selfedit
