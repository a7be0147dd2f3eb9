#include "cuda/runtime/schedule.h"

#include <algorithm>
#include <memory>

#include "core/schedule.h"
#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

int64_t LossTokens(const AdaptSpec& spec, int64_t document) {
  int64_t count = 0;
  for (int64_t i = spec.documents.offsets[document] + 1; i < spec.documents.offsets[document + 1]; ++i) {
    count += spec.loss_mask.empty() || spec.loss_mask[i] != 0;
  }
  return count;
}

template <typename T>
at::Tensor ToTensor(const std::vector<T>& values, at::ScalarType dtype) {
  // Never empty: a null pointer means something else to a kernel.
  at::Tensor t = at::zeros({std::max<int64_t>(1, static_cast<int64_t>(values.size()))}, dtype);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<T>());
  return t;
}

int64_t Round(int64_t tokens) { return (tokens + 15) / 16 * 16; }

}  // namespace

StepPlan PlanSteps(const AdaptSpec& spec, int64_t slots, int64_t step_tokens) {
  struct Active {
    int64_t edit, slot;
    SlotSteps steps;
  };
  StepPlan plan;
  plan.slots = slots;
  std::vector<std::unique_ptr<Active>> active;
  std::vector<int64_t> free;
  for (int64_t s = slots; s > 0; --s) free.push_back(s - 1);
  const int64_t edits = static_cast<int64_t>(spec.slots.size());
  int64_t next = 0;
  for (;; ++plan.steps) {
    while (next < edits && !free.empty()) {
      active.push_back(std::make_unique<Active>(Active{next, free.back(), SlotSteps(spec.slots[next])}));
      plan.starts.push_back({plan.steps, free.back(), next});
      free.pop_back();
      ++next;
    }
    if (active.empty()) break;
    std::vector<const SlotSteps*> steps;
    for (const auto& a : active) steps.push_back(&a->steps);
    std::vector<Active*> chosen;
    for (const size_t i : FirstFit(steps, spec.documents, step_tokens)) chosen.push_back(active[i].get());
    std::sort(chosen.begin(), chosen.end(),
              [](const Active* a, const Active* b) { return a->slot < b->slot; });
    const size_t row = static_cast<size_t>(plan.steps * slots);
    plan.learning_rate.resize(row + slots, 0);
    plan.adam_step.resize(row + slots, 0);
    plan.loss_scale.resize(row + slots, 0);
    plan.edit.resize(row + slots, -1);
    int64_t tokens = 0, documents = 0;
    for (Active* a : chosen) {
      int64_t loss_tokens = 0;
      for (const int64_t d : a->steps.NextDocuments()) {
        plan.entry_document.push_back(static_cast<int32_t>(d));
        plan.entry_slot.push_back(static_cast<int32_t>(a->slot));
        tokens += spec.documents.length(d);
        loss_tokens += LossTokens(spec, d);
        ++documents;
      }
      plan.learning_rate[row + a->slot] = a->steps.learning_rate();
      plan.adam_step[row + a->slot] = static_cast<int32_t>(a->steps.done() + 1);
      plan.loss_scale[row + a->slot] = static_cast<float>(1.0 / static_cast<double>(loss_tokens));
      plan.edit[row + a->slot] = static_cast<int32_t>(a->edit);
      a->steps.Advance();
    }
    plan.step_entries.push_back(static_cast<int32_t>(plan.entry_document.size()));
    plan.tokens.push_back(tokens);
    plan.documents.push_back(documents);
    for (auto& a : active) {
      if (!a->steps.finished()) continue;
      plan.ends.push_back({plan.steps, a->slot, a->edit});
      free.push_back(a->slot);
      a.reset();
    }
    std::erase(active, nullptr);
  }
  return plan;
}

DeviceSchedule::DeviceSchedule(const AdaptSpec& spec, const StepPlan& plan, at::Device device) {
  auto put = [&](const auto& values, at::ScalarType dtype) {
    held_.push_back(Upload(ToTensor(values, dtype), device));
    return held_.back();
  };
  view_.tokens = put(spec.documents.tokens, at::kInt).template const_data_ptr<int32_t>();
  if (!spec.loss_mask.empty())
    view_.loss_mask = put(spec.loss_mask, at::kByte).template const_data_ptr<uint8_t>();
  view_.document_offsets = put(spec.documents.offsets, at::kInt).template const_data_ptr<int32_t>();
  view_.step_entries = put(plan.step_entries, at::kInt).template const_data_ptr<int32_t>();
  view_.entry_document = put(plan.entry_document, at::kInt).template const_data_ptr<int32_t>();
  view_.entry_slot = put(plan.entry_slot, at::kInt).template const_data_ptr<int32_t>();
  view_.learning_rate = put(plan.learning_rate, at::kDouble).template const_data_ptr<double>();
  view_.adam_step = put(plan.adam_step, at::kInt).template const_data_ptr<int32_t>();
  view_.loss_scale = put(plan.loss_scale, at::kFloat).template const_data_ptr<float>();
  view_.steps = plan.steps;
}

int64_t DeviceSchedule::Bytes(const AdaptSpec& spec, const StepPlan& plan) {
  return static_cast<int64_t>(5 * spec.documents.tokens.size() + 4 * spec.documents.offsets.size() +
                              8 * plan.entry_document.size() + 4 * plan.step_entries.size()) +
         20 * plan.steps * plan.slots;
}

std::vector<StepSize> ChooseSizes(const StepPlan& plan, int64_t step_tokens, bool fixed) {
  const int64_t most = *std::max_element(plan.tokens.begin(), plan.tokens.end());
  const int64_t documents = *std::max_element(plan.documents.begin(), plan.documents.end());
  if (fixed) return {{std::max(Round(step_tokens), Round(most)), documents}};
  std::vector<StepSize> sizes{{Round(most), documents}};
  for (const int64_t tokens : {Round(most / 4), Round(most / 16)}) {
    // Documents of the largest step that takes this size.
    int64_t needed = 0;
    for (size_t s = 0; s < plan.tokens.size(); ++s) {
      if (plan.tokens[s] <= tokens) needed = std::max(needed, plan.documents[s]);
    }
    if (needed > 0 && tokens < sizes.back().tokens) sizes.push_back({tokens, needed});
  }
  return sizes;
}

size_t SizeOf(const std::vector<StepSize>& sizes, int64_t tokens) {
  size_t size = 0;
  while (size + 1 < sizes.size() && tokens <= sizes[size + 1].tokens) ++size;
  return size;
}

int64_t DefaultStepTokens(const ModelConfig& config) {
  const int64_t tokens = (int64_t{2} << 20) / config.hidden_size / 64 * 64;
  return std::clamp<int64_t>(tokens, 512, 4096);
}

}  // namespace selfedit::cuda
