// Copies of deltas on a device, as the products want them.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <vector>

#include "core/delta.h"
#include "cuda/runtime/change.h"

namespace selfedit::cuda {

// One product's operands. Floating tensors are of the products' type unless it says otherwise.
struct FrozenPiece {
  at::Tensor a, b, gain;                                         // low-rank and spectral; gain float
  at::Tensor row_offsets, columns, column_offsets, rows, order;  // sparse
  at::Tensor values;                                             // sparse and dense
  double scale = 1;
  int64_t rank() const { return a.defined() ? a.size(0) : 0; }
};
// By weight and kind the pieces of linear maps, embedding and head (a low-rank part wider than the kernels
// take is several, a spectral one counts as low-rank); by weight the change of a gain or bias, float [c] on
// the host.
struct FrozenDelta {
  std::map<std::pair<int64_t, DeltaKind>, std::vector<FrozenPiece>> pieces;
  std::map<int64_t, at::Tensor> vectors;
};

// Made once a delta; kept as long as this object.
class FrozenDeltas {
 public:
  explicit FrozenDeltas(const DeviceModel& model) : model_(model) {}
  std::shared_ptr<const FrozenDelta> Get(const DeltaPtr& delta);

 private:
  const DeviceModel& model_;
  std::map<const Delta*, std::pair<DeltaPtr, std::shared_ptr<const FrozenDelta>>> made_;
};

// How a device computes a kind: spectral as low-rank with a gain.
inline DeltaKind ComputedAs(DeltaKind kind) {
  return kind == DeltaKind::kSpectral ? DeltaKind::kLowRank : kind;
}
// A part's pieces, in this type.
std::vector<FrozenPiece> PiecesOf(const DeviceModel& model, const DeltaPart& part, at::ScalarType type);

}  // namespace selfedit::cuda
