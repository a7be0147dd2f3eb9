// The whole inner loop as a table: which documents of which slots make up each step, at which learning rates.
// Made on the host from the same rules as the CPU's loop (core/schedule.h), uploaded once.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/adapt.h"
#include "cuda/kernels/kernels.h"

namespace selfedit::cuda {

struct StepPlan {
  int64_t slots = 0, steps = 0;
  std::vector<int32_t> step_entries{0}, entry_document, entry_slot;
  std::vector<double> learning_rate;  // [steps, slots]
  std::vector<int32_t> adam_step;
  std::vector<float> loss_scale;
  std::vector<int32_t> edit;               // [steps, slots] whose step it is, -1: none
  std::vector<int64_t> tokens, documents;  // of each step
  struct Move {
    int64_t step, slot, edit;
  };
  std::vector<Move> starts;  // before a step the slot becomes this edit; by step
  std::vector<Move> ends;    // after a step the edit is done
};

// As the CPU's loop with at most `slots` edits at once and step_tokens tokens a step.
StepPlan PlanSteps(const AdaptSpec& spec, int64_t slots, int64_t step_tokens);

// A plan's tables and the documents on the device.
class DeviceSchedule {
 public:
  DeviceSchedule(const AdaptSpec& spec, const StepPlan& plan, at::Device device);
  const Schedule& view() const { return view_; }
  static int64_t Bytes(const AdaptSpec& spec, const StepPlan& plan);

 private:
  std::vector<at::Tensor> held_;
  Schedule view_;
};

// Step sizes: T, and two smaller ones for steps that are not full.
struct StepSize {
  int64_t tokens = 0, documents = 0;  // capacities
};
// Largest first. `fixed`: only one, `step_tokens` or what the largest step needs: then the shape of a product
// never depends on who else is in the call.
std::vector<StepSize> ChooseSizes(const StepPlan& plan, int64_t step_tokens, bool fixed);
// Index of the smallest size that holds a step.
size_t SizeOf(const std::vector<StepSize>& sizes, int64_t tokens);

// Enough tokens a step to keep the device busy: wide models need few.
int64_t DefaultStepTokens(const ModelConfig& config);

}  // namespace selfedit::cuda
