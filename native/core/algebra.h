// Operations on deltas that give new deltas. All compute in the model's activation type; nothing is changed in place.
#pragma once
#include <optional>
#include <vector>

#include "core/delta.h"
#include "core/model.h"

namespace selfedit {

// scale_0 D_0 + scale_1 D_1 + …, exact: low-rank parts of one matrix are concatenated (ranks add up), sparse ones united,
// dense ones and spectral ones of the same factors summed. Kinds of one matrix stay side by side.
DeltaPtr AddDeltas(const Model& model, const DeltaStack& terms);
DeltaPtr ScaleDelta(const Delta& delta, double factor);

// Low-rank parts to their best approximation of at most `rank` (0: no limit) by the singular values, keeping at least the
// part `energy` (0 to 1, of the sum of squared singular values) of each. Dense parts become low-rank ones. Others are
// kept. (Eckart–Young: the error in the Frobenius norm is the root of the squared singular values left out.)
DeltaPtr TruncateDelta(const Model& model, const Delta& delta, int64_t rank, double energy);

// The k largest of |D| of each matrix, k = density * out * in rounded up, as sparse parts; ties keep the lower index.
DeltaPtr SparsifyDelta(const Model& model, const Delta& delta, double density);

// What must be added to `from` to get `to` (effective weights): the deltas that both stacks begin with cancel; the rest is
// added with its sign.
DeltaPtr DeltaDifference(const Fork& to, const Fork& from);

struct PartStatistics {
  int64_t matrix = 0;
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t values = 0;  // numbers that it stores of its own
  double norm = 0;     // Frobenius norm of scale * D
  double relative = 0; // norm / Frobenius norm of W
  double largest = 0;  // largest |scale * D|
  double spectral = 0; // largest singular value of scale * D
};
std::vector<PartStatistics> DeltaStatistics(const Model& model, const Delta& delta);

// The leading `rank` singular triplets of a weight, by randomised SVD (Halko, Martinsson, Tropp, arXiv 0909.4061; power
// iterations with reorthonormalisation, keyed start). Signs are fixed: the largest |entry| of each column of U is positive.
struct SpectralFactors {
  at::Tensor u, sigma, v;  // [out, r], [r] descending, [r, in]
};
SpectralFactors RandomisedSvd(const at::Tensor& weight, int64_t rank, uint64_t key);

}  // namespace selfedit
