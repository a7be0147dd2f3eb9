// Deltas in the products: which rows of a batch see which low-rank change, forward and backward.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"

namespace selfedit {

// One matrix's change as the products see it. da and db are where gradients are added; null for a frozen
// delta.
struct LowRankView {
  const void* a = nullptr;  // [rank, in]
  const void* b = nullptr;  // [out, rank]
  void* da = nullptr;
  void* db = nullptr;
  int64_t rank = 0;
  double scale = 1.0;
};

// Rows [begin, end) of the batch.
struct Segment {
  int64_t begin = 0, end = 0;
  LowRankView view;
};

// For every matrix, levels that are applied one after the other (the depth in the fork's list); the segments
// of one level are disjoint and run in parallel.
class OverlayPlan {
 public:
  explicit OverlayPlan(int64_t matrices) : levels_(matrices) {}
  void Add(int64_t matrix, int64_t level, const Segment& segment);
  bool Touches(int64_t matrix) const { return !levels_[matrix].empty(); }
  // Lowest layer that has a trainable segment; -1 when none has.
  int64_t lowest_trainable_layer() const { return lowest_trainable_; }

  // y[seg] += scale (x[seg] A^T) B^T
  void Forward(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const;
  // v = scale dy[seg] B; dA += v^T x, dB += scale dy^T (x A^T) for trainable segments; dx[seg] += v A when dx
  // is defined.
  void Backward(int64_t matrix, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dx) const;

 private:
  template <typename T>
  void ForwardTyped(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const;
  template <typename T>
  void BackwardTyped(int64_t matrix, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dx) const;
  std::vector<std::vector<std::vector<Segment>>> levels_;
  int64_t lowest_trainable_ = -1;
};

// A trainable delta that lies over some documents: views by ascending matrix id.
struct TrainableView {
  std::vector<int64_t> matrices;
  std::vector<LowRankView> views;
};

// What document d of a batch sees: the stack of its fork, then (not null) a trainable delta on top.
struct DocumentDeltas {
  const DeltaStack* stack = nullptr;
  const TrainableView* trainable = nullptr;
};

// Neighbouring documents under the same delta at the same level become one segment: a shared parent delta
// costs one product. offsets has documents.size() + 1 entries.
OverlayPlan MakeOverlayPlan(int64_t matrices, const std::vector<int32_t>& offsets,
                            const std::vector<DocumentDeltas>& documents);

}  // namespace selfedit
