// The deltas under training of all slots, stacked: values of any kind on any weights, their gradients, Adam's
// moments, and how the rows of each slot see them.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <vector>

#include "core/delta.h"
#include "cuda/runtime/frozen.h"
#include "cuda/runtime/slot_layout.h"

namespace selfedit::cuda {

class SlotDeltas : public Overlay {
 public:
  // What is kept: gradients of changes that are nothing yet (dense ones of weights whose gradient is wanted);
  // values and gradients; moments too, for training.
  enum class Keep { kGradients, kValues, kMoments };
  // rows: most of a batch. frozen (may be null): what lies below, whose segments are the slots.
  SlotDeltas(const DeviceModel& model, const std::vector<TrainedPart>& parts, int64_t slots, int64_t rows,
             Keep keep, const FrozenVectors* frozen);
  // Device memory of one slot, of one row of a batch, and of a slot's values alone.
  static int64_t SlotBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts, Keep keep);
  static int64_t TokenBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts);
  static int64_t ValueBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts);

  // Which rows belong to which slot, device memory [slots + 1].
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  // Gradients are added to what is there instead of replacing it.
  void SetAccumulate(bool accumulate) { accumulate_ = accumulate; }

  // Fills a slot with a delta's values (on the host), moments zero; takes effect with Upload.
  void Start(int64_t slot, const Delta& delta, const SlotOptimizer& optimizer);
  void Upload();
  // The slot's values as a delta like `like`: device tensors of their own, what is not trained shared with
  // it.
  DeltaPtr Take(int64_t slot, const Delta& like) const;
  // The same of its gradient, and of numbers that were made of gradients, [count].
  DeltaPtr TakeGradient(int64_t slot, const Delta& like) const;
  DeltaPtr Unpack(const at::Tensor& flat, const Delta& like) const { return layout_.Parts(flat, like); }

  void Begin() const override;
  void End() const override;
  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;
  void Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const override;
  void EmbedForward(const RowBatch& batch, void* y) const override;
  void EmbedBackward(const RowBatch& batch, const void* dy) const override;
  void HeadForward(int64_t begin, int64_t count, const void* x, float* logits) const override;
  void HeadBackward(int64_t begin, int64_t count, const void* x, const void* dlogits,
                    void* dx) const override;
  NormGain Gain(int64_t id) const override;
  void GainBackward(int64_t id, int64_t rows, int64_t heads, const void* x, const float* rstd,
                    const void* dy) const override;
  bool Trains(int64_t id) const override { return by_id_.count(id) != 0; }
  int64_t lowest() const { return layout_.lowest(); }

  // One AdamW step of the slots that are active: learning_rate and adam_step [slots], device memory.
  void Step(const double* learning_rate, const int32_t* adam_step) const;

  int64_t slots() const { return slots_; }
  const at::Tensor& values() const { return value_; }
  const at::Tensor& gradients() const { return gradient_; }
  const at::Tensor& failed_step() const { return failed_step_; }

 private:
  // A gain or bias under training: one row a slot, what its rows see and its gradient; float [slots, c].
  struct Vector {
    at::Tensor value, gradient, pointers;  // pointers [2, slots]: addresses of the rows of both
    const float* const* rows() const {
      return reinterpret_cast<const float* const*>(pointers.const_data_ptr<int64_t>());
    }
    float* const* gradients() const {
      return reinterpret_cast<float* const*>(pointers.const_data_ptr<int64_t>() + value.size(0));
    }
  };
  bool IsVector(int64_t id) const { return model_.host().tensors()[id].vector(); }
  // Vectors are computed in float from the masters, all else in the products' type from the shadow.
  Type TypeOf(int64_t id) const { return IsVector(id) ? Type::kFloat32 : model_.type(); }
  Change View(size_t place) const;
  ChangeGradient Gradient(size_t place, bool accumulate) const;
  Segments SegmentsOf(int64_t rows) const { return {offsets_, slots_, rows}; }
  Segments OneRowEach() const { return {one_each_.const_data_ptr<int32_t>(), slots_, slots_}; }
  // body(place) for each that changes the weight.
  template <typename Body>
  void ForPlaces(int64_t id, Body body) const;
  void SetPlace(int64_t slot, size_t place, const DeltaPart& part);

  const DeviceModel& model_;
  SlotLayout layout_;
  std::map<int64_t, std::vector<size_t>> by_id_;
  int64_t slots_;
  Keep keep_;
  const FrozenVectors* frozen_;
  const int32_t* offsets_ = nullptr;
  bool accumulate_ = false;
  at::Tensor value_, first_moment_, second_moment_, gradient_, shadow_;  // [slots, count]
  at::Tensor optimizer_, partial_, norm_, failed_step_;
  ChangeTables tables_;
  std::vector<std::vector<std::vector<FrozenPiece>>> held_;  // [slots][places]: what the tables point at
  std::vector<at::Tensor> u_;                                // a place: [rows, rank], kept for the backward
  at::Tensor v_, vector_v_;  // scratch [rows, widest rank], of vectors [slots, kMostRank]
  std::map<int64_t, Vector> vectors_;
  at::Tensor one_each_, no_token_;  // 0 … slots, and zeros
  at::Tensor clipped_;
};

}  // namespace selfedit::cuda
