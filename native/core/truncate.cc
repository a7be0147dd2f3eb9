// Deltas made smaller: by rank, and by their largest entries.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/algebra.h"
#include "core/model.h"
#include "core/parts.h"
#include "core/support.h"
#include "core/svd.h"

namespace selfedit {
namespace {

// How many of the singular values (descending) remain. What rounding leaves of a value that is 0 is not one.
int64_t RankToKeep(const at::Tensor& sigma, int64_t larger_side, int64_t rank, double energy) {
  const double* s = sigma.const_data_ptr<double>();
  int64_t count = sigma.numel();
  const double floor = s[0] * std::numeric_limits<double>::epsilon() * static_cast<double>(larger_side);
  while (count > 1 && s[count - 1] <= floor) --count;
  if (energy > 0) {
    double total = 0, left_out = 0;
    for (int64_t k = count - 1; k >= 0; --k) total += s[k] * s[k];
    while (count > 1 && left_out + s[count - 1] * s[count - 1] <= (1 - energy) * total) {
      left_out += s[count - 1] * s[count - 1];
      --count;
    }
  }
  return rank > 0 ? std::min(count, rank) : count;
}

// The singular values are shared evenly: B = U sqrt(sigma), A = sqrt(sigma) V^T.
DeltaPart LowRankOf(const SpectralFactors& f, int64_t rank, int64_t matrix, double scale,
                    at::ScalarType type) {
  const at::Tensor root = f.sigma.narrow(0, 0, rank).sqrt();
  return DeltaPart::LowRank(matrix, (f.v.narrow(0, 0, rank) * root.unsqueeze(1)).to(type).contiguous(),
                            (f.u.narrow(1, 0, rank) * root).to(type).contiguous(), scale);
}

// sum of scale D over parts, in float64.
at::Tensor SumOf(const std::vector<DeltaPart>& parts, const MatrixInfo& info) {
  at::Tensor sum;
  for (const DeltaPart& part : parts) {
    const at::Tensor d = Widened(part).Materialise(info.out, info.in);
    sum = sum.defined() ? sum.add_(d) : d;
  }
  return sum;
}

}  // namespace

DeltaPtr TruncateDelta(const Model& model, const Delta& delta, int64_t rank, double energy) {
  if (rank < 0)
    throw Error("OPTION_INVALID", "rank is " + std::to_string(rank) + "; expected at least 0 (0: no limit)");
  if (!(energy >= 0 && energy <= 1))
    throw Error("OPTION_INVALID", "energy is " + std::to_string(energy) + "; expected 0 to 1");
  std::vector<DeltaPart> result;
  for (const std::vector<DeltaPart>& group : ByMatrix(delta)) {
    const MatrixInfo& info = model.tensors().at(group.front().matrix);
    const int64_t side = std::max(info.out, info.in);
    std::vector<DeltaPart> truncated;
    bool dense = false;
    for (const DeltaPart& part : group) {
      // A vector as a product of factors would only be larger.
      const bool taken =
          part.kind == DeltaKind::kLowRank || (part.kind == DeltaKind::kDense && !info.vector());
      dense = dense || (taken && part.kind == DeltaKind::kDense);
      (taken ? truncated : result).push_back(part);
    }
    if (truncated.empty()) continue;
    const DeltaPart& first = truncated.front();
    const SpectralFactors f = dense ? DenseSvd(SumOf(truncated, info)) : ProductSvd(first.b, first.a);
    result.push_back(LowRankOf(f, RankToKeep(f.sigma, side, rank, energy), first.matrix,
                               dense ? 1.0 : first.scale, model.activation()));
  }
  return Finished(model, std::move(result));
}

DeltaPtr SparsifyDelta(const Model& model, const Delta& delta, double density) {
  std::vector<DeltaPart> result;
  for (const std::vector<DeltaPart>& group : ByMatrix(delta)) {
    const MatrixInfo& info = model.tensors().at(group.front().matrix);
    const at::Tensor sum = SumOf(group, info).contiguous();
    const double* values = sum.const_data_ptr<double>();
    std::vector<int64_t> kept = LargestEntries(sum, SupportSize(density, info.out * info.in));
    // An entry that is 0 changes nothing and is not stored.
    std::erase_if(kept, [&](int64_t i) { return values[i] == 0; });
    at::Tensor own = at::empty({static_cast<int64_t>(kept.size())}, at::kDouble);
    for (size_t i = 0; i < kept.size(); ++i) own.mutable_data_ptr<double>()[i] = values[kept[i]];
    result.push_back(
        SparseFromIndices(group.front().matrix, info.out, info.in, kept, own.to(model.activation())));
  }
  return Finished(model, std::move(result));
}

}  // namespace selfedit
