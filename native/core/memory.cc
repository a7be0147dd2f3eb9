#include "core/memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <new>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/score.h"
#include "core/workspace.h"

namespace selfedit {
namespace {

// The rest is for what a plan does not count: vectors, fragments, other programs.
constexpr double kUsablePart = 0.9;

int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

int64_t SystemFree() {
  int64_t free = std::numeric_limits<int64_t>::max();
  std::ifstream info("/proc/meminfo");
  std::string name, unit;
  int64_t kilobytes = 0;
  while (info >> name >> kilobytes >> unit) {
    if (name == "MemAvailable:") free = kilobytes * 1024;
  }
  // A container may have less than the machine.
  const int64_t most = ReadNumber("/sys/fs/cgroup/memory.max"),
                used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (most > 0 && used >= 0) free = std::min(free, std::max<int64_t>(0, most - used));
  return free;
}

int64_t Element(const Model& model) { return static_cast<int64_t>(at::elementSize(model.activation())); }

// Weights are packed at first use, apart for each direction.
int64_t StillToPack(const Model& model, bool training) {
  const int64_t plain =
      model.parameters() *
      static_cast<int64_t>(at::elementSize(model.layer(0).linear[0].weight().scalar_type()));
  return std::max<int64_t>(0, (training ? 3 : 2) * plain - model.bytes());
}

// Activations of one token: what the backward needs of every layer, and what one layer makes on the way.
int64_t TokenBytes(const Model& model, bool training) {
  const ModelConfig& c = model.config();
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t norms = (c.post_norms ? 2 * c.hidden_size : 0) + (c.qk_norm ? q + kv : 0);
  const int64_t layer = 4 * c.hidden_size + 2 * q + 2 * kv + 2 * c.intermediate_size + c.heads + 2 + norms;
  const int64_t working = 6 * c.hidden_size + 3 * q + 4 * kv + 4 * c.intermediate_size;
  return Element(model) * ((training ? c.layers * layer : 0) + working);
}

int64_t SlotBytes(const Model& model, const SlotSpec& slot) {
  int64_t values = 0;
  if (slot.init && !slot.init->Only(DeltaKind::kLowRank)) {
    for (const DeltaPart& part : slot.init->parts) {
      for (const at::Tensor& t : part.trainable()) values += t.numel();
    }
    return 4 * values * Element(model);
  }
  int64_t dense = 0;
  for (const int32_t id : slot.matrices) {
    if (id < 0 || id >= static_cast<int64_t>(model.tensors().size())) continue;  // refused later, by name
    const MatrixInfo& info = model.tensors()[id];
    if (slot.kind == DeltaKind::kSparse) {
      values += static_cast<int64_t>(slot.density * static_cast<double>(info.out * info.in)) + info.out;
      dense += info.out * info.in;  // the gradient that chooses the support
    } else {
      values += slot.rank * (info.out + info.in);
    }
  }
  return (4 * values + (slot.selection == Selection::kFisher ? 2 : 1) * dense) * Element(model);
}

std::string Megabytes(int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; }

void Refuse(const MemoryPlan& plan, const char* what) {
  throw Error("OUT_OF_MEMORY", std::string(what) + " needs " + Megabytes(plan.total()) + ", but " +
                                   Megabytes(plan.budget) + " can be used (" + Megabytes(plan.free) +
                                   " are free)");
}

}  // namespace

void SetMemoryLimit(int64_t bytes) { workspace::SetLimit(bytes); }
int64_t MemoryLimit() { return workspace::Limit(); }

int64_t FreeMemory() {
  const workspace::Stats stats = workspace::Read();
  int64_t free = SystemFree();
  if (free < std::numeric_limits<int64_t>::max() - stats.kept_bytes) free += stats.kept_bytes;
  if (MemoryLimit() > 0) free = std::min(free, std::max<int64_t>(0, MemoryLimit() - stats.used_bytes));
  return free;
}

MemoryPlan PlanAdapt(const AdaptSpec& spec) {
  if (OnDevice(*spec.model)) return CudaAccelerator().plan_adapt(spec);
  const Model& model = *spec.model;
  MemoryPlan plan;
  plan.free = FreeMemory();
  plan.budget = static_cast<int64_t>(kUsablePart * static_cast<double>(plan.free));
  plan.fixed = StillToPack(model, true) + 2 * kHeadRows * model.config().vocab_size * Element(model);
  plan.token = TokenBytes(model, true);
  int64_t longest = 1;
  for (const SlotSpec& slot : spec.slots) {
    plan.each = std::max(plan.each, SlotBytes(model, slot));
    std::vector<int64_t> lengths;
    for (int64_t d = std::max<int64_t>(0, slot.first_document);
         d < std::min(slot.last_document, spec.documents.rows()); ++d) {
      lengths.push_back(spec.documents.length(d));
    }
    std::sort(lengths.rbegin(), lengths.rend());
    int64_t batch = 0;
    for (int64_t i = 0; i < std::min<int64_t>(slot.batch_size, static_cast<int64_t>(lengths.size())); ++i)
      batch += lengths[i];
    longest = std::max(longest, batch);
  }
  const int64_t wanted = spec.max_step_tokens > 0 ? spec.max_step_tokens : kDefaultStepTokens;
  const int64_t slots = static_cast<int64_t>(spec.slots.size());
  plan.count = 1;
  plan.tokens = longest;
  if (plan.total() > plan.budget) Refuse(plan, "one edit");
  // Half of what is left for a wider step, the rest for slots; more slots than kSlotBytes holds would gain
  // nothing.
  const int64_t left = plan.budget - plan.total();
  plan.tokens = std::max(longest, std::min(wanted, longest + left / 2 / plan.token));
  const int64_t most = spec.max_active_slots > 0
                           ? spec.max_active_slots
                           : std::max<int64_t>(1, kSlotBytes / std::max<int64_t>(1, plan.each));
  const int64_t room =
      (plan.budget - plan.fixed - plan.token * plan.tokens) / std::max<int64_t>(1, plan.each);
  plan.count = std::clamp<int64_t>(std::min(most, room), 1, std::max<int64_t>(1, slots));
  return plan;
}

MemoryPlan PlanGenerate(const GenerateSpec& spec) {
  if (OnDevice(*spec.model)) return CudaAccelerator().plan_generate(spec);
  const Model& model = *spec.model;
  const ModelConfig& config = model.config();
  MemoryPlan plan;
  plan.free = FreeMemory();
  plan.budget = static_cast<int64_t>(kUsablePart * static_cast<double>(plan.free));
  plan.fixed = StillToPack(model, false);
  plan.token = TokenBytes(model, false);
  int64_t longest = 1, prompt = 1;
  for (const int32_t count : spec.max_tokens) longest = std::max<int64_t>(longest, count);
  for (int64_t p = 0; p < spec.prompts.rows(); ++p) prompt = std::max(prompt, spec.prompts.length(p));
  const int64_t cache = config.layers * 2 * config.kv_heads * config.head_dim * Element(model);
  // A row of its own prompt: keys and values of both, and its logits.
  plan.each = cache * (std::min(longest, config.max_positions) + prompt) +
              2 * config.vocab_size * Element(model) + plan.token;
  plan.count = 1;
  plan.tokens = prompt;
  if (plan.total() > plan.budget) Refuse(plan, "one row");
  const int64_t left = plan.budget - plan.total();
  plan.tokens = std::max(prompt, std::min(kDefaultBatchTokens, prompt + left / 4 / plan.token));
  const int64_t rows = static_cast<int64_t>(spec.row_prompt.size());
  const int64_t most =
      spec.max_rows > 0
          ? spec.max_rows
          : std::min(kDefaultRows, std::max<int64_t>(1, kCacheBytes / std::max<int64_t>(1, plan.each)));
  const int64_t room =
      (plan.budget - plan.fixed - plan.token * plan.tokens) / std::max<int64_t>(1, plan.each);
  plan.count = std::clamp<int64_t>(std::min(most, room), 1, std::max<int64_t>(1, rows));
  return plan;
}

bool OutOfMemoryNow() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return true;
  } catch (const Error& error) {
    return error.code() == "OUT_OF_MEMORY";
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    return message.find("can't allocate memory") != std::string::npos ||
           message.find("not enough memory") != std::string::npos ||
           message.find("out of memory") != std::string::npos;
  } catch (...) {
    return false;
  }
}

int64_t WithHalving(int64_t most, const JobControl& control, const std::string& what,
                    const std::function<void(int64_t)>& attempt) {
  try {
    attempt(most);
    return most;
  } catch (...) {
    if (!OutOfMemoryNow() || most <= 1) throw;
  }
  workspace::Trim();
  control.Warn(what + ": not enough memory for " + std::to_string(most) +
               " tokens or rows at once; going on with " + std::to_string(most / 2));
  attempt(most / 2);
  return most / 2;
}

}  // namespace selfedit
