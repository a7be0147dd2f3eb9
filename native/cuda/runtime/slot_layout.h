// Where the values of a delta under training lie in a slot's flat buffer. All slots have one layout, wide
// enough for the widest of them; what a slot does not use is zero and stays zero, since its gradient is.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"
#include "core/model.h"

namespace selfedit::cuda {

// One part of a delta under training; size: its rank, or how many values a sparse one has.
struct TrainedPart {
  int64_t id = 0;
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t size = 0;
};
std::vector<TrainedPart> PartsOf(const Delta& delta);
// The widest of each weight and kind, in their order.
std::vector<TrainedPart> Widest(std::vector<TrainedPart> parts);

// A product's share of a part: columns [from, from + rank) of its rank, padded to a multiple of 8.
struct SlotPlace {
  int64_t id = 0;
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t from = 0, rank = 0;
  int64_t offset = 0, offset_b = 0;  // of A or the values; of B
  int64_t size = 0;                  // values in all
};

class SlotLayout {
 public:
  SlotLayout(const Model& model, const std::vector<TrainedPart>& parts);
  const std::vector<SlotPlace>& places() const { return places_; }
  int64_t count() const { return count_; }
  // Layer of the lowest weight, as in Pass.
  int64_t lowest() const { return lowest_; }
  // Columns of the rank of a part that lie in a place; none for others than low-rank and spectral.
  static int64_t RankOf(const DeltaPart& part, const SlotPlace& place);

  // The values of a delta on the host, [count].
  at::Tensor Flat(const Delta& delta) const;
  // Parts like those of `like`, with values from flat [count]; tensors of their own, on flat's device.
  DeltaPtr Parts(const at::Tensor& flat, const Delta& like) const;

 private:
  const Model& model_;
  std::vector<SlotPlace> places_;
  int64_t count_ = 0, lowest_ = 0;
};

}  // namespace selfedit::cuda
