// Frozen deltas under the rows of a batch. What every stack of a call begins with (the policy's delta under
// all of its edits) is one product over all rows; the rest is looked up a segment of rows through arrays of
// pointers on the device, which may change between replays of a graph.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <vector>

#include "core/delta.h"
#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

// One product's operands of one delta, on the device.
struct FrozenPiece {
  at::Tensor a, b, gain;                                                 // low-rank and spectral; gain float
  at::Tensor row_offsets, columns, values, column_offsets, rows, order;  // sparse
  double scale = 1;
};
// Pieces of a delta by matrix; a low-rank part wider than the kernels take is several.
struct FrozenDelta {
  std::map<int64_t, std::vector<FrozenPiece>> low_rank, sparse;
};

// Device copies of deltas, each made once; kept as long as this object.
class FrozenDeltas {
 public:
  explicit FrozenDeltas(const DeviceModel& model) : model_(model) {}
  // Throws DEVICE_UNSUPPORTED for changes of other weights than linear maps and for dense ones.
  std::shared_ptr<const FrozenDelta> Get(const DeltaPtr& delta);

 private:
  const DeviceModel& model_;
  std::map<const Delta*, std::pair<DeltaPtr, std::shared_ptr<const FrozenDelta>>> made_;
};

class FrozenOverlay : public Overlay {
 public:
  // stacks: all that the call will ever show, from level first_level on. `rows`: most of a batch.
  FrozenOverlay(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& stacks,
                size_t first_level, int64_t segments, int64_t rows);

  // Segment boundaries, device memory [segments + 1].
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  // What a segment sees (null: nothing); takes effect with Upload.
  void Set(int64_t segment, const DeltaStack* stack);
  void Upload();

  bool empty() const { return products_.empty(); }
  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;
  void Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const override;

 private:
  struct Product {
    int64_t level = 0;  // of the stack
    bool sparse = false;
    size_t piece = 0;
    int64_t rank = 0;
    int64_t table = 0;  // its rows in the tables
  };
  LowRank LowRankOf(int64_t matrix, const Product& product) const;
  Sparse SparseOf(int64_t matrix, const Product& product) const;

  const DeviceModel& model_;
  FrozenDeltas& deltas_;
  int64_t segments_;
  const int32_t* offsets_ = nullptr;
  std::map<int64_t, std::vector<Product>> products_;  // by matrix, in the order of their application
  int64_t tables_ = 0;
  // [tables, kPointers, segments] addresses, [tables, segments] ranks and scales; the host's copies are what
  // Set writes.
  at::Tensor pointers_host_, ranks_host_, scales_host_, pointers_, ranks_, scales_;
  at::Tensor u_;
};

// Levels that all stacks begin with.
size_t CommonLevels(const std::vector<DeltaStack>& stacks);

// The two overlays of a call: the common levels over all rows, and the rest by segment.
class FrozenStacks {
 public:
  // `deltas` outlives it; segments' boundaries and contents are set afterwards.
  FrozenStacks(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& stacks,
               int64_t segments, const std::vector<int64_t>& batch_rows);
  // Of segments; the common part needs none.
  void SetSegments(const int32_t* offsets) { own_->SetSegments(offsets); }
  void Set(int64_t segment, const DeltaStack* stack) { own_->Set(segment, stack); }
  void Upload() { own_->Upload(); }
  // In the order of their application, for batches of `rows` rows (one of batch_rows).
  Overlays For(int64_t rows);

 private:
  std::map<int64_t, at::Tensor> whole_;  // {0, rows}
  std::unique_ptr<FrozenOverlay> common_, own_;
};

}  // namespace selfedit::cuda
