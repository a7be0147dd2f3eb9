// The rows of one call of generate, decoded in a fixed number of places until all are done.
#pragma once
#include <vector>

#include "core/memory.h"
#include "cuda/runtime/copied.h"
#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

constexpr int64_t kMostPlaces = 256;

// Rows that are done stay so when the others begin anew: each draws from a key of its own.
struct Generated {
  GenerateResult rows;
  std::vector<bool> done;
  double finished = 0, steps = 0;
};

// What `result` has finished already is left as it is; plan: places, and tokens of prompts read together.
void GenerateRows(const GenerateSpec& spec, const DeviceModel& model, const MemoryPlan& plan,
                  const Copies& copies, const JobControl& control, Generated* result);

// Most tokens of a row's own keys and values: what it generates, behind the rest of a prompt whose beginning
// is shared.
int64_t LongestRow(const GenerateSpec& spec, const DeviceModel& model);

}  // namespace selfedit::cuda
