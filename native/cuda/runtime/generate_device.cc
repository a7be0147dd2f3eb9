// Sampling from many forks on a device: what the memory allows, copied weights, and the rows.
#include <algorithm>

#include "core/memory.h"
#include "cuda/runtime/backend.h"
#include "cuda/runtime/calls.h"
#include "cuda/runtime/decode.h"
#include "cuda/runtime/generator.h"

namespace selfedit::cuda {
namespace {

constexpr int64_t kPrefillTokens = 4096;

// Copied weights that rows decode with (prompts are read under the overlay, as on the CPU): those that are
// there already, or one of every fork that has changes when the call asks for it.
Copies CopiesFor(const GenerateSpec& spec, const DeviceModel& model, const JobControl& control) {
  if (spec.application == Application::kOverlay) return {};
  Copies copies = spec.materialised;
  if (spec.application != Application::kMaterialised) return copies;
  copies.resize(spec.forks.size());
  for (size_t f = 0; f < copies.size(); ++f) {
    if (!copies[f] && !spec.forks[f].empty())
      copies[f] = Materialised::Make(model.host(), spec.forks[f], control);
  }
  return copies;
}

}  // namespace

MemoryPlan PlanGenerate(const GenerateSpec& spec, const DeviceModel& model) {
  CheckGenerate(spec);
  const DeviceScope scope(model.device());
  const ModelConfig& config = model.config();
  const int64_t rows = std::max<int64_t>(1, static_cast<int64_t>(spec.row_prompt.size()));
  int64_t prompt = 1, total = 0;
  for (int64_t p = 0; p < spec.prompts.rows(); ++p) {
    prompt = std::max(prompt, spec.prompts.length(p));
    total += spec.prompts.length(p);
  }
  MemoryPlan plan;
  plan.free = FreeBytes(model.device());
  plan.budget = Usable(plan.free);
  const int64_t cache = config.layers * 2 * config.kv_heads * config.head_dim * model.type_bytes();
  // A row of its own prompt: keys and values of both, and the logits behind the prompt.
  plan.each = DecodeStep::PlaceBytes(model, LongestRow(spec, model)) + cache * prompt + 4 * config.vocab_size;
  // Keys and values of a batch are made beside its activations.
  plan.token = Pass::Bytes(model, 1, 0) + cache;
  plan.fixed = 4 * config.vocab_size * std::min(kMostPlaces, spec.prompts.rows());
  plan.tokens = prompt + 15;
  plan.count = 1;
  if (plan.total() > plan.budget) {
    throw Error("OUT_OF_MEMORY", "one row needs " + std::to_string(plan.total() >> 20) +
                                     " MiB on the device; " + std::to_string(plan.free >> 20) +
                                     " MiB are free; lower maxTokens");
  }
  // Half of what is left for prompts that are read together, the rest for rows.
  const int64_t wanted = std::max(prompt, std::min(total, kPrefillTokens)) + 15;
  plan.tokens = std::min(wanted, plan.tokens + (plan.budget - plan.total()) / 2 / plan.token);
  const int64_t fit = 1 + (plan.budget - plan.total()) / plan.each;
  plan.count = std::min({fit, rows, spec.max_rows > 0 ? spec.max_rows : kMostPlaces});
  // Products of few rows are as slow as of sixteen.
  plan.count = std::min(fit, (plan.count + 15) / 16 * 16);
  return plan;
}

GenerateResult Generate(const GenerateSpec& spec, const DeviceModel& model, const JobControl& control) {
  CheckGenerate(spec);
  const DeviceScope scope(model.device());
  const Copies copies = CopiesFor(spec, model, control);
  MemoryPlan plan = PlanGenerate(spec, model);
  const size_t rows = spec.row_prompt.size();
  Generated result;
  result.done.resize(rows, false);
  result.rows.tokens.resize(rows);
  result.rows.logprobs.resize(rows);
  result.rows.finish.resize(rows, Finish::kLength);
  const int64_t planned = plan.count;
  WithHalving(planned, control, "generate", [&](int64_t places) {
    if (places < planned) plan.tokens /= 2;
    plan.count = places;
    for (size_t r = 0; r < rows; ++r) {
      if (result.done[r]) continue;
      result.rows.tokens[r].clear();
      result.rows.logprobs[r].clear();
    }
    GenerateRows(spec, model, plan, copies, control, &result);
  });
  return std::move(result.rows);
}

}  // namespace selfedit::cuda
