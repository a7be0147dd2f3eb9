// How much memory a call may take, decided before its work starts, and what happens when it was not enough.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "core/adapt.h"
#include "core/generate.h"

namespace selfedit {

// Bytes that tensors of the compute thread may hold at most, weights included; 0: only what the system has.
void SetMemoryLimit(int64_t bytes);
int64_t MemoryLimit();
// Bytes that can still be allocated: of the system (or the container), and below the limit.
int64_t FreeMemory();

// What one call takes, in bytes. Read before it starts; `budget` is what may be used of `free`.
struct MemoryPlan {
  int64_t free = 0, budget = 0;
  int64_t fixed = 0;   // packed weights still to be made, chunks of logits
  int64_t each = 0;    // adapt: the largest slot; generate: the longest row with its keys and values
  int64_t count = 0;   // how many of these are worked on together
  int64_t token = 0;   // activations of one token of a step
  int64_t tokens = 0;  // most tokens of one step
  int64_t total() const { return fixed + each * count + token * tokens; }
};
// Throws OUT_OF_MEMORY, naming what is needed and what is there, when not even one fits.
MemoryPlan PlanAdapt(const AdaptSpec& spec);
MemoryPlan PlanGenerate(const GenerateSpec& spec);

// Whether the exception being handled says that an allocation failed.
bool OutOfMemoryNow();
// Runs `attempt(most)`, and once more with half as much after an allocation has failed; the second failure is
// OUT_OF_MEMORY. The attempt must leave things so that it can be made again. Returns what `most` was in the
// end.
int64_t WithHalving(int64_t most, const JobControl& control, const std::string& what,
                    const std::function<void(int64_t)>& attempt);

}  // namespace selfedit
