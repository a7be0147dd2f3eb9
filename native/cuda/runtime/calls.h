// The calls of the core on a device. Specifications, results and errors are the core's; finished deltas are
// device tensors (their consumers on the host call cpu()).
#pragma once
#include "core/accelerator.h"
#include "core/adapt.h"
#include "core/generate.h"
#include "core/gradient.h"
#include "core/score.h"
#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

struct AdaptOptions {
  // One step size only, whatever the call: the shapes of all products, and so the bits, are then the same for
  // an edit alone and among others.
  bool fixed_shapes = false;
};

// Made before work starts, from the device's free memory: `each` of `count` slots, `token` of the largest
// step's `tokens`, of which `step_tokens` are what a step is filled up to.
struct AdaptPlan {
  MemoryPlan memory;
  int64_t step_tokens = 0;
  bool results_on_device = true;  // else each finished delta goes to the host at once
};
AdaptPlan PlanAdapt(const AdaptSpec& spec, const DeviceModel& model);
// `count` places of rows, `tokens` of one batch of prompts.
MemoryPlan PlanGenerate(const GenerateSpec& spec, const DeviceModel& model);

AdaptResult Adapt(const AdaptSpec& spec, const DeviceModel& model, const AdaptOptions& options,
                  const JobControl& control);

std::vector<double> Score(const ScoreSpec& spec, const DeviceModel& model, const JobControl& control);
std::vector<double> Divergence(const DivergenceSpec& spec, const DeviceModel& model,
                               const JobControl& control);
// States behind the last norm of rows under one stack, [n, hidden] float on the host.
at::Tensor Hidden(const DeviceModel& model, const Ragged& batch, const DeltaStack& stack);

GenerateResult Generate(const GenerateSpec& spec, const DeviceModel& model, const JobControl& control);

GradientResult Gradient(const GradientSpec& spec, const DeviceModel& model, const JobControl& control);
// On the host, [out, in] float each.
std::vector<at::Tensor> WeightGradients(const DeviceModel& model, const DeltaStack& stack,
                                        const Ragged& documents, const std::vector<uint8_t>& loss_mask,
                                        const std::vector<int32_t>& matrices, Selection selection,
                                        const JobControl& control);

std::unique_ptr<DeviceTraining> Train(const DeviceModel& model, TrainableDelta& delta, int64_t batch_tokens);

}  // namespace selfedit::cuda
