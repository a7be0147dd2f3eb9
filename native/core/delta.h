// A change to a named subset of the weights, and a fork: a model plus an ordered list of deltas.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/types.h"

namespace selfedit {

class Model;
class MaterialisedSlot;

constexpr int64_t kMostRank = 1 << 20;  // sizes of factors then stay far from overflow

enum class DeltaKind { kLowRank, kSparse, kDense, kSpectral };
const char* DeltaKindName(DeltaKind kind);  // "lowRank" …

// The change of one weight W [out, in] (vectors are matrices of one row), W + scale * D:
//   lowRank   D = B A, A [r, in], B [out, r]                                  (LoRA, arXiv 2106.09685)
//   sparse    D[i, columns[k]] = values[k] for row_offsets[i] <= k < row_offsets[i + 1]
//   dense     D = values [out, in]
//   spectral  D = U diag(sigma values) V^T: singular value k becomes sigma_k (1 + values_k); U [out, r] in
//   `b`,
//             V^T [r, in] in `a`, both shared with whoever holds the factors    (SVF, arXiv 2501.06252)
// Floating tensors are contiguous and of the model's activation type; offsets and columns are int32.
struct DeltaPart {
  DeltaKind kind = DeltaKind::kLowRank;
  int64_t matrix = 0;  // index into Model::tensors
  double scale = 1.0;
  at::Tensor a, b;                  // lowRank, spectral
  at::Tensor sigma;                 // spectral, [r]
  at::Tensor row_offsets, columns;  // sparse, [out + 1] and [n]; columns ascend within a row
  at::Tensor values;                // sparse [n], dense [out, in], spectral [r]

  static DeltaPart LowRank(int64_t matrix, at::Tensor a, at::Tensor b, double scale);
  static DeltaPart Sparse(int64_t matrix, at::Tensor row_offsets, at::Tensor columns, at::Tensor values,
                          double scale);
  static DeltaPart Dense(int64_t matrix, at::Tensor values, double scale);
  static DeltaPart Spectral(int64_t matrix, at::Tensor u, at::Tensor sigma, at::Tensor v, at::Tensor values,
                            double scale);
  int64_t rank() const { return a.defined() ? a.size(0) : 0; }
  // Bytes that belong to this part alone: factors of a spectral part are shared.
  int64_t bytes() const;
  // What gradients are taken of: A and B, or values.
  std::vector<at::Tensor> trainable() const;
  // D times scale, [out, in].
  at::Tensor Materialise(int64_t out, int64_t in) const;
  // rows += factor * scale * D[first ..], where rows is float64 [n, in].
  void AddRows(int64_t first, double factor, at::Tensor rows) const;
};

// Immutable once made.
struct Delta {
  std::vector<DeltaPart> parts;  // by ascending matrix id, then kind; one of each kind a matrix
  int64_t bytes() const;
  // Throws DELTA_SHAPE or DELTA_INVALID: shapes and types against the model, order, rank 0, offsets and
  // columns, values that are not finite.
  void Check(const Model& model) const;
  bool Only(DeltaKind kind) const;
};
using DeltaPtr = std::shared_ptr<const Delta>;

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
  // Copied rows, when asked for (core/materialised.h); shared with copies of the fork until their lists
  // differ.
  std::shared_ptr<MaterialisedSlot> slot = nullptr;
  void Changed();             // after every change of the list: what was materialised no longer fits
  int64_t own_bytes() const;  // deltas, each counted once, and copied rows
  // The weight with every change, computed in float64 and rounded once to the activation type: [out, in].
  at::Tensor EffectiveWeight(int64_t matrix) const;
  // Adds every change of rows [first, first + n) of one weight to `rows`, float64 [n, in].
  void AddChanges(int64_t matrix, int64_t first, at::Tensor rows) const;
};

// Blocks {first row, rows} in which a weight is gone through, so that what is made on the way stays small.
std::vector<std::pair<int64_t, int64_t>> RowBlocks(int64_t rows, int64_t width);

}  // namespace selfedit
