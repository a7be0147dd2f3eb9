// Deltas made smaller: by rank, and by their largest entries.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/algebra.h"
#include "core/model.h"
#include "core/parts.h"
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
  if (!(density > 0 && density <= 1))
    throw Error("OPTION_INVALID",
                "density is " + std::to_string(density) + "; expected more than 0, at most 1");
  std::vector<DeltaPart> result;
  for (const std::vector<DeltaPart>& group : ByMatrix(delta)) {
    const MatrixInfo& info = model.tensors().at(group.front().matrix);
    const at::Tensor sum = SumOf(group, info).contiguous();
    const double* values = sum.const_data_ptr<double>();
    const int64_t count = info.out * info.in;
    // 0.07 * 100 is 7.000000000000001: what rounding adds is no value more.
    const double wanted = density * static_cast<double>(count);
    const int64_t k = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(wanted * (1 - 1e-12))), 1, count);
    at::Tensor sizes = sum.abs().view({-1});
    double* begin = sizes.mutable_data_ptr<double>();
    std::nth_element(begin, begin + (k - 1), begin + count, std::greater<>());
    const double least = begin[k - 1];
    int64_t ties = k - std::count_if(begin, begin + k, [&](double x) { return x > least; });
    std::vector<int32_t> offsets{0}, columns;
    std::vector<double> kept;
    for (int64_t i = 0; i < info.out; ++i) {
      for (int64_t j = 0; j < info.in; ++j) {
        const double value = values[i * info.in + j], size = std::abs(value);
        // An entry that is 0 changes nothing and is not stored.
        if (size == 0 || size < least || (size == least && ties-- <= 0)) continue;
        columns.push_back(static_cast<int32_t>(j));
        kept.push_back(value);
      }
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    result.push_back(DeltaPart::Sparse(group.front().matrix, at::tensor(offsets, at::kInt),
                                       at::tensor(columns, at::kInt),
                                       at::tensor(kept, at::kDouble).to(model.activation()), 1.0));
  }
  return Finished(model, std::move(result));
}

}  // namespace selfedit
