// A change to a named subset of the matrices, and a fork: a model plus an ordered list of deltas.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "core/types.h"

namespace selfedit {

class Model;

constexpr int64_t kMostRank = 1 << 20;  // sizes of factors then stay far from overflow

// W + scale * B A, A [rank, in], B [out, rank] (LoRA, arXiv 2106.09685).
struct LowRankPart {
  int64_t matrix = 0;
  at::Tensor a, b;  // contiguous, in the model's activation type
  double scale = 1.0;
  int64_t rank() const { return a.size(0); }
};

// Immutable once made. Sparse, dense and spectral parts get a list of their own beside `low_rank`.
struct Delta {
  std::vector<LowRankPart> low_rank;  // by ascending matrix id, one a matrix
  int64_t bytes() const;
  // Throws DELTA_SHAPE or DELTA_INVALID: shapes against the model, order, rank 0, values that are not finite.
  void Check(const Model& model) const;
};
using DeltaPtr = std::shared_ptr<const Delta>;

// PEFT's layout: base_model.model.<matrix>.lora_A.weight and lora_B.weight. Written atomically.
void SaveDelta(const Delta& delta, const Model& model, const std::string& path);
// Scales are not part of the tensors: one for each matrix id (0 where the file may not have the matrix).
DeltaPtr LoadDelta(const Model& model, const std::string& path, const std::vector<double>& scale_of_matrix);

struct AppliedDelta {
  DeltaPtr delta;
  double scale = 1.0;
  bool operator==(const AppliedDelta& other) const { return delta == other.delta && scale == other.scale; }
};
using DeltaStack = std::vector<AppliedDelta>;

// Shares everything with its model; copying one copies a list of pointers.
struct Fork {
  std::shared_ptr<Model> model;
  DeltaStack stack;
  int64_t own_bytes() const;  // each delta counted once
  at::Tensor EffectiveWeight(int64_t matrix) const;
};

}  // namespace selfedit
