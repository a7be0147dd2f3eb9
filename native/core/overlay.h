// Deltas in the products: which rows of a batch see which change, forward and backward.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"

namespace selfedit {

class Materialised;
class Model;

// One weight's change as the products see it (see DeltaPart). The pointers beginning with d are where
// gradients are added; null for a frozen delta.
struct PartView {
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t matrix = 0;
  int64_t out = 0, in = 0, rank = 0;
  double scale = 1.0;
  const void* a = nullptr;      // [rank, in]
  const void* b = nullptr;      // [out, rank]
  const void* sigma = nullptr;  // [rank]
  const int32_t* row_offsets = nullptr;
  const int32_t* columns = nullptr;
  const void* values = nullptr;
  void* da = nullptr;
  void* db = nullptr;
  void* dvalues = nullptr;
  bool trainable() const { return da != nullptr || dvalues != nullptr; }
};
PartView ViewOf(const DeltaPart& part, int64_t out, int64_t in, double scale);

// Rows [begin, end) of the batch.
struct Segment {
  int64_t begin = 0, end = 0;
  PartView view;
};

// A gain or bias as rows [begin, end) see it.
struct VectorSegment {
  int64_t begin = 0, end = 0;
  at::Tensor value;
};

// For every weight, levels that are applied one after the other (the depth in the fork's list); the segments
// of one level are disjoint and run in parallel.
class OverlayPlan {
 public:
  explicit OverlayPlan(const Model& model);
  void Add(int64_t level, const Segment& segment);
  bool Touches(int64_t matrix) const { return !levels_[matrix].empty(); }
  bool Trains(int64_t matrix) const { return trains_[matrix]; }
  // Lowest layer that has a trainable segment (-1: the embedding has one); the number of layers when only
  // what comes after them has, or nothing.
  int64_t lowest_trainable_layer() const { return lowest_trainable_; }
  bool trainable() const { return trainable_; }
  // Products that the changes of one weight cost: neighbouring rows under one delta are one.
  size_t segments(int64_t matrix) const {
    size_t count = 0;
    for (const auto& level : levels_[matrix]) count += level.size();
    return count;
  }
  int64_t tokens() const { return tokens_; }
  void set_tokens(int64_t tokens) { tokens_ = tokens; }

  // Rows [begin, end) use copied weights where these exist.
  void Replace(int64_t begin, int64_t end, const Materialised* weights) {
    replaced_.push_back({begin, end, weights});
  }
  // Whether no row of the batch needs the shared weight of this linear map.
  bool ReplacesAll(int64_t matrix) const;
  // y[seg, run] = x[seg] W'[run]^T + bias, over what the shared weight gave.
  void ForwardReplaced(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const;

  // y[seg] += x[seg] D^T of a linear map; x and y hold all rows of the batch.
  void Forward(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const;
  // Gradients of the values of trainable segments from x and dy; dx[seg] += dy D when dx is defined.
  void Backward(int64_t matrix, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dx) const;

  // The same for chosen rows of the batch, ascending: row i of x and y is row rows[i].
  void ForwardRows(int64_t matrix, const std::vector<int64_t>& rows, const at::Tensor& x,
                   const at::Tensor& y) const;
  void BackwardRows(int64_t matrix, const std::vector<int64_t>& rows, const at::Tensor& x,
                    const at::Tensor& dy, const at::Tensor& dx) const;

  // Embedding: y[t] += D[tokens[t]], and the gradient of D's values.
  void EmbedForward(int64_t matrix, const at::Tensor& tokens, const at::Tensor& y) const;
  void EmbedBackward(int64_t matrix, const at::Tensor& tokens, const at::Tensor& dy) const;

  // Gains and biases: base + all changes, by intervals of rows that cover the batch.
  std::vector<VectorSegment> Vectors(int64_t matrix, const at::Tensor& base) const;
  // Adds the gradient of a vector that rows [begin, end) see: terms [n, width], summed over the rows of each
  // trainable segment.
  void VectorBackward(int64_t matrix, const at::Tensor& terms) const;

 private:
  struct Replacement {
    int64_t begin, end;
    const Materialised* weights;
  };
  std::vector<Replacement> replaced_;
  using Levels = std::vector<std::vector<Segment>>;
  std::vector<Levels> levels_;
  std::vector<bool> trains_;
  const Model* model_;
  int64_t lowest_trainable_, tokens_ = 0;
  bool trainable_ = false;
};

// A delta under training that lies over some documents: its views by ascending matrix id.
struct TrainableView {
  std::vector<PartView> views;
};

// What document d of a batch sees: the stack of its fork, then (not null) a trainable delta on top.
struct DocumentDeltas {
  const DeltaStack* stack = nullptr;
  const TrainableView* trainable = nullptr;
  // Not null: takes the place of the stack in the linear maps; embedding, head and vectors stay overlays.
  const Materialised* materialised = nullptr;
};

// Neighbouring documents under the same delta at the same level become one segment: a shared parent delta
// costs one product. offsets has documents.size() + 1 entries.
OverlayPlan MakeOverlayPlan(const Model& model, const std::vector<int32_t>& offsets,
                            const std::vector<DocumentDeltas>& documents);

}  // namespace selfedit
