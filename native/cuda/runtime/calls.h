// The calls of the core on a device. Specifications, results and errors are the core's; finished deltas are device
// tensors (their consumers on the host call cpu()).
#pragma once
#include "core/adapt.h"
#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

struct AdaptOptions {
  // One step size only, whatever the call: the shapes of all products, and so the bits, are then the same for an edit
  // alone and among others.
  bool fixed_shapes = false;
};

// Made before work starts, from the device's free memory.
struct AdaptPlan {
  int64_t slots = 0, step_tokens = 0;
  int64_t slot_bytes = 0, step_bytes = 0, free_bytes = 0;
  bool results_on_device = true;  // else each finished delta goes to the host at once
};
AdaptPlan PlanAdapt(const AdaptSpec& spec, const DeviceModel& model);

AdaptResult Adapt(const AdaptSpec& spec, const DeviceModel& model, const AdaptOptions& options,
                  const JobControl& control);

}  // namespace selfedit::cuda
