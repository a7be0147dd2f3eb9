// One lockstep training step as one graph: gather, forward, head with its loss, backward, AdamW, loss, next
// step.
#pragma once
#include <memory>
#include <vector>

#include "cuda/runtime/backend.h"
#include "cuda/runtime/frozen.h"
#include "cuda/runtime/head.h"
#include "cuda/runtime/pass.h"
#include "cuda/runtime/schedule.h"
#include "cuda/runtime/slot_deltas.h"

namespace selfedit::cuda {

class TrainStep {
 public:
  // `longest`: tokens of the longest document. Makes all buffers.
  TrainStep(const DeviceModel& model, const Schedule& schedule, const std::vector<StepSize>& sizes,
            int64_t longest, SlotDeltas& deltas, FrozenStacks& frozen);
  // Device memory of one token of a step, and of what a step of `tokens` tokens needs besides.
  static int64_t TokenBytes(const DeviceModel& model, int64_t recorded_layers);
  static int64_t FixedBytes(const DeviceModel& model, int64_t tokens, int64_t slots);

  // The next step of the schedule; sizes are captured when first used. Waits for nothing.
  void Run(size_t size);
  // [steps, slots] float, device memory.
  const at::Tensor& loss() const { return loss_; }

 private:
  void Body(const StepSize& size);
  StepBatch BatchOf(const StepSize& size) const;

  const DeviceModel& model_;
  Schedule schedule_;
  std::vector<StepSize> sizes_;
  SlotDeltas& deltas_;
  FrozenStacks& frozen_;
  Pass pass_;
  DeviceHead head_;
  at::Tensor step_, tokens_, positions_, document_offsets_, segment_offsets_, target_, weight_,
      learning_rate_, adam_step_, logprob_, loss_;
  std::vector<std::unique_ptr<Graph>> graphs_;
};

}  // namespace selfedit::cuda
