// The low-rank deltas under training of all slots, stacked: every slot holds the same matrices at the same
// rank, padded with zeros, which stay zeros (their gradients are products with zeros).
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"
#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

class SlotDeltas : public Overlay {
 public:
  // matrices: ascending ids of linear maps. rank: of the widest slot. rows: most of a batch.
  SlotDeltas(const DeviceModel& model, std::vector<int32_t> matrices, int64_t slots, int64_t rank,
             int64_t rows);
  // Device memory of one slot, and of one row of a batch; values of a slot.
  static int64_t SlotBytes(const DeviceModel& model, const std::vector<int32_t>& matrices, int64_t rank);
  static int64_t TokenBytes(const DeviceModel& model, const std::vector<int32_t>& matrices, int64_t rank);
  static int64_t Count(const Model& model, const std::vector<int32_t>& matrices, int64_t rank);

  // Which rows belong to which slot, device memory [slots + 1].
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  // Gradients are added to what is there instead of replacing it.
  void SetAccumulate(bool accumulate) { accumulate_ = accumulate; }

  // Fills a slot with a delta's values (a host delta on some of the matrices), moments zero.
  void Start(int64_t slot, const Delta& delta, const SlotOptimizer& optimizer);
  // The slot's values as a delta of the same matrices, ranks and scales: device tensors of their own.
  DeltaPtr Take(int64_t slot, const Delta& like) const;
  // The same of its gradient.
  DeltaPtr TakeGradient(int64_t slot, const Delta& like) const;

  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;
  void Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const override;
  bool Trains(int64_t matrix) const override { return index_[matrix] >= 0; }
  int64_t lowest_layer() const { return matrices_.front() / kModulesPerLayer; }

  // One AdamW step of the slots that are active: learning_rate and adam_step [slots], device memory.
  void Step(const double* learning_rate, const int32_t* adam_step) const;

  int64_t slots() const { return slots_; }
  int64_t count() const { return count_; }
  const at::Tensor& values() const { return value_; }
  const at::Tensor& failed_step() const { return failed_step_; }

 private:
  struct Place {
    int64_t a = 0, b = 0;  // in a slot's values
  };
  LowRank View(int64_t index) const;
  Segments SegmentsOf(int64_t rows) const { return {offsets_, slots_, rows}; }
  DeltaPtr Parts(const at::Tensor& flat, const Delta& like) const;

  const DeviceModel& model_;
  std::vector<int32_t> matrices_;
  std::vector<int64_t> index_;  // of a matrix id among matrices_, -1: none
  std::vector<Place> places_;
  int64_t slots_, rank_, count_ = 0;
  const int32_t* offsets_ = nullptr;
  bool accumulate_ = false;
  at::Tensor value_, first_moment_, second_moment_, gradient_, shadow_;  // [slots, count]
  at::Tensor scale_;                                                     // [matrices, slots] float
  at::Tensor optimizer_, partial_, norm_, failed_step_;
  std::vector<at::Tensor> u_;  // [rows, rank] a matrix, kept for the backward
  at::Tensor v_;
};

}  // namespace selfedit::cuda
