// Frozen deltas under the rows of a batch. What every stack of a call begins with (the policy's delta under
// all of its edits) is one product over all rows; the rest is looked up a segment of rows through arrays of
// pointers on the device, which may change between replays of a graph.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <vector>

#include "core/delta.h"
#include "cuda/runtime/copied.h"
#include "cuda/runtime/frozen_deltas.h"
#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

// Changes of linear maps, embedding and head.
class FrozenOverlay : public Overlay {
 public:
  // stacks: all that the call will ever show, from level first_level on. `rows`: most of a batch.
  FrozenOverlay(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& stacks,
                size_t first_level, int64_t segments, int64_t rows);

  // Segment boundaries, device memory [segments + 1].
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  // What a segment sees (null: nothing; outside_only: nothing of the linear maps); takes effect with Upload.
  void Set(int64_t segment, const DeltaStack* stack, bool outside_only = false);
  void Upload() { tables_.Upload(); }

  bool empty() const { return products_.empty(); }
  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;
  void Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const override;
  void EmbedForward(const RowBatch& batch, void* y) const override;
  void HeadForward(int64_t begin, int64_t count, const void* x, float* logits) const override;
  void HeadBackward(int64_t begin, int64_t count, const void* x, const void* dlogits,
                    void* dx) const override;

 private:
  struct Product {
    size_t level = 0;  // of the stack
    DeltaKind kind = DeltaKind::kLowRank;
    size_t piece = 0;  // of those of its delta
    int64_t rank = 0;
    int64_t table = 0;
  };
  template <typename Body>
  void ForChanges(int64_t id, Body body) const;

  const DeviceModel& model_;
  FrozenDeltas& deltas_;
  int64_t segments_;
  const int32_t* offsets_ = nullptr;
  std::map<int64_t, std::vector<Product>> products_;  // by weight, in the order of their application
  ChangeTables tables_;
  at::Tensor u_, clipped_;
};

// Changes of gains and biases: of every segment their sum over its whole stack.
class FrozenVectors : public Overlay {
 public:
  FrozenVectors(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& stacks,
                int64_t segments);
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  void Set(int64_t segment, const DeltaStack* stack);
  void Upload();
  bool empty() const { return index_.empty(); }
  // Of every segment the vector's change, or null; device memory. Null: no stack changes it.
  const float* const* Table(int64_t id) const;

  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;
  NormGain Gain(int64_t id) const override;

 private:
  using Vectors = std::map<int64_t, at::Tensor>;  // by weight, on the device
  using Key = std::vector<std::pair<const Delta*, double>>;
  static Key KeyOf(const DeltaStack& stack);

  const DeviceModel& model_;
  int64_t segments_;
  const int32_t* offsets_ = nullptr;
  std::map<int64_t, int64_t> index_;  // of a weight in the table
  std::map<Key, Vectors> of_stack_;
  at::Tensor table_host_, table_;  // [vectors, segments] addresses
};

// Levels that all stacks begin with.
size_t CommonLevels(const std::vector<DeltaStack>& stacks);

// All that frozen deltas add in a call: the common levels over all rows, the rest by segment, vectors. Where
// a fork's rows were copied (the stack of the same index) nothing is common.
class FrozenStacks {
 public:
  // `deltas` outlives it; segments' boundaries and contents are set afterwards.
  FrozenStacks(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& stacks,
               int64_t segments, const std::vector<int64_t>& batch_rows, const Copies& copies = {});
  // Of segments; the common part needs none.
  void SetSegments(const int32_t* offsets);
  // copy (may be null): read instead of the stack's changes of linear maps.
  void Set(int64_t segment, const DeltaStack* stack, const Materialised* copy = nullptr);
  void Upload();
  // In the order of their application, for batches of `rows` rows (one of batch_rows).
  Overlays For(int64_t rows);
  const FrozenVectors& vectors() const { return *vectors_; }

 private:
  std::map<int64_t, at::Tensor> whole_;  // {0, rows}
  std::unique_ptr<CopiedOverlay> copied_;
  std::unique_ptr<FrozenOverlay> common_, own_;
  std::unique_ptr<FrozenVectors> vectors_;
};

}  // namespace selfedit::cuda
