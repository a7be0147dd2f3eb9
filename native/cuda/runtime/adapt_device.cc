#include <algorithm>
#include <cmath>
#include <set>

#include "core/host_delta.h"
#include "core/memory.h"
#include "core/schedule.h"
#include "core/support.h"
#include "cuda/runtime/calls.h"
#include "cuda/runtime/train_step.h"

namespace selfedit::cuda {
namespace {

// Steps between two looks at what has been done; the host is at most two such windows ahead of the device.
constexpr int64_t kWindow = 8;

struct Shape {
  std::vector<TrainedPart> parts;  // the widest of all edits
  int64_t longest = 0, largest_batch = 0;
};

// What a slot will train, known before its support is chosen.
std::vector<TrainedPart> SlotParts(const Model& model, const SlotSpec& slot, const std::string& name) {
  if (slot.init && !slot.init->Only(DeltaKind::kLowRank)) return PartsOf(*slot.init);
  if (slot.matrices.empty()) throw Error("TARGET_UNKNOWN", "no matrix is chosen for the delta");
  std::vector<TrainedPart> parts;
  for (const int32_t id : slot.matrices) {
    if (id < 0 || id >= static_cast<int64_t>(model.tensors().size())) {
      throw Error("TARGET_UNKNOWN", name + ": there is no matrix with id " + std::to_string(id));
    }
    const MatrixInfo& info = model.tensors()[id];
    const bool sparse = slot.kind == DeltaKind::kSparse;
    parts.push_back({id, slot.kind, sparse ? SupportSize(slot.density, info.out * info.in) : slot.rank});
  }
  return parts;
}

Shape ShapeOf(const AdaptSpec& spec) {
  Shape shape;
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    const SlotSpec& slot = spec.slots[s];
    for (const TrainedPart& part : SlotParts(*spec.model, slot, "edit " + std::to_string(s)))
      shape.parts.push_back(part);
    // The most that a batch can hold, whatever the shuffling.
    std::vector<int64_t> lengths;
    for (int64_t d = slot.first_document; d < slot.last_document; ++d)
      lengths.push_back(spec.documents.length(d));
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    shape.longest = std::max(shape.longest, lengths.front());
    int64_t batch = 0;
    for (size_t i = 0; i < std::min<size_t>(lengths.size(), slot.batch_size); ++i) batch += lengths[i];
    shape.largest_batch = std::max(shape.largest_batch, batch);
  }
  shape.parts = Widest(std::move(shape.parts));
  return shape;
}

// Supports that gradients choose, made before the training takes its memory; null for other edits.
std::vector<DeltaPtr> ChosenSupports(const AdaptSpec& spec, const DeviceModel& model,
                                     const JobControl& control) {
  const auto gradients = [&](const Model&, const DeltaStack& stack, const Ragged& documents,
                             const std::vector<uint8_t>& mask, const std::vector<int32_t>& matrices,
                             Selection selection, const JobControl& stop) {
    return WeightGradients(model, stack, documents, mask, matrices, selection, stop);
  };
  std::vector<DeltaPtr> chosen;
  for (const SlotSpec& slot : spec.slots) {
    const bool as_it_is = slot.init && !slot.init->Only(DeltaKind::kLowRank);
    const bool chooses = slot.kind == DeltaKind::kSparse && !as_it_is;
    chosen.push_back(chooses ? StartDelta(spec, slot, control, gradients).Share() : nullptr);
  }
  return chosen;
}

SlotOptimizer OptimizerOf(const SlotSpec& slot) {
  SlotOptimizer optimizer;
  optimizer.beta1 = slot.beta1;
  optimizer.beta2 = slot.beta2;
  optimizer.epsilon = slot.epsilon;
  optimizer.weight_decay = slot.weight_decay;
  optimizer.clip = slot.clip;
  return optimizer;
}

std::string EditStep(int64_t edit, int64_t step) {
  return "edit " + std::to_string(edit) + ", step " + std::to_string(step);
}

class Run {
 public:
  Run(const AdaptSpec& spec, const DeviceModel& model, const AdaptPlan& plan, const AdaptOptions& options,
      const Shape& shape, const std::vector<DeltaPtr>& chosen, const JobControl& control)
      : spec_(spec),
        model_(model),
        control_(control),
        chosen_(chosen),
        keep_(plan.results_on_device),
        plan_(PlanSteps(spec, plan.memory.count, plan.step_tokens)),
        schedule_(spec, plan_, model.device()),
        sizes_(ChooseSizes(plan_, plan.step_tokens, options.fixed_shapes)),
        copies_(model),
        frozen_(model, copies_, StacksOf(spec), plan.memory.count, TokensOf(sizes_)),
        deltas_(model, shape.parts, plan.memory.count, sizes_.front().tokens, SlotDeltas::Keep::kMoments,
                &frozen_.vectors()),
        step_(model, schedule_.view(), sizes_, shape.longest, deltas_, frozen_) {
    const int64_t edits = static_cast<int64_t>(spec.slots.size());
    result_.deltas.resize(edits);
    result_.loss.resize(edits);
    result_.steps = plan_.steps;
    started_.resize(edits);
    failed_ = at::zeros({edits}, model.options(at::kInt));
    finite_ = at::ones({edits}, model.options(at::kInt));
    for (const SlotSpec& slot : spec.slots) {
      for (int64_t d = slot.first_document; d < slot.last_document; ++d) {
        total_tokens_ += static_cast<double>(spec.documents.length(d) * slot.epochs);
      }
    }
  }

  AdaptResult Go() {
    size_t next_start = 0, next_end = 0;
    for (int64_t step = 0; step < plan_.steps; ++step) {
      if (step % kWindow == 0) {
        control_.Check();
        // The window before the last one has its copy on the way since its end.
        if (step >= 2 * kWindow) Look(step - 2 * kWindow);
      }
      bool moved = false;
      for (; next_start < plan_.starts.size() && plan_.starts[next_start].step == step;
           ++next_start, moved = true) {
        Start(plan_.starts[next_start]);
      }
      if (moved) {
        frozen_.Upload();
        deltas_.Upload();
      }
      step_.Run(SizeOf(sizes_, plan_.tokens[step]));
      for (; next_end < plan_.ends.size() && plan_.ends[next_end].step == step; ++next_end)
        End(plan_.ends[next_end]);
      if ((step + 1) % kWindow == 0) Copy(step + 1 - kWindow);
    }
    const int64_t whole = plan_.steps / kWindow * kWindow;
    if (whole < plan_.steps) Copy(whole);
    for (int64_t begin = looked_; begin < plan_.steps; begin += kWindow) Look(begin);
    CheckEnds();
    return std::move(result_);
  }

 private:
  static std::vector<DeltaStack> StacksOf(const AdaptSpec& spec) {
    std::vector<DeltaStack> stacks;
    for (const SlotSpec& slot : spec.slots) stacks.push_back(slot.stack);
    return stacks;
  }
  static std::vector<int64_t> TokensOf(const std::vector<StepSize>& sizes) {
    std::vector<int64_t> tokens;
    for (const StepSize& size : sizes) tokens.push_back(size.tokens);
    return tokens;
  }

  void Start(const StepPlan::Move& move) {
    const SlotSpec& slot = spec_.slots[move.edit];
    const DeltaPtr& chosen = chosen_[move.edit];
    started_[move.edit] = chosen ? chosen : HostDelta(StartDelta(spec_, slot, control_).Share());
    deltas_.Start(move.slot, *started_[move.edit], OptimizerOf(slot));
    frozen_.Set(move.slot, &slot.stack);
  }

  void End(const StepPlan::Move& move) {
    DeltaPtr delta = deltas_.Take(move.slot, *started_[move.edit]);
    started_[move.edit].reset();
    Convert(deltas_.failed_step().select(0, move.slot), failed_.select(0, move.edit));
    Convert(at::isfinite(deltas_.values().select(0, move.slot)).all(), finite_.select(0, move.edit));
    if (!keep_) {
      delta = HostDelta(delta);
    }
    result_.deltas[move.edit] = delta;
  }

  // Losses of a window that begins at this step.
  void Copy(int64_t begin) {
    readback_[begin / kWindow % 2].Start(
        step_.loss().narrow(0, begin, std::min(kWindow, plan_.steps - begin)));
  }

  void Look(int64_t begin) {
    const at::Tensor loss = readback_[begin / kWindow % 2].Wait();
    CheckDevice();
    const int64_t end = std::min(plan_.steps, begin + kWindow);
    for (int64_t step = begin; step < end; ++step) {
      double sum = 0;
      int64_t count = 0;
      for (int64_t s = 0; s < plan_.slots; ++s) {
        const int32_t edit = plan_.edit[step * plan_.slots + s];
        if (edit < 0) continue;
        const double value = loss.const_data_ptr<float>()[(step - begin) * plan_.slots + s];
        if (!std::isfinite(value)) {
          throw Error("LOSS_NOT_FINITE", EditStep(edit, plan_.adam_step[step * plan_.slots + s]) +
                                             ": the loss is " + std::to_string(value) +
                                             "; lower the learning rate");
        }
        result_.loss[edit].push_back(value);
        sum += value;
        ++count;
      }
      done_tokens_ += static_cast<double>(plan_.tokens[step]);
      last_loss_ = sum / static_cast<double>(count);
    }
    looked_ = end;
    control_.Report({done_tokens_, total_tokens_, static_cast<double>(end), last_loss_});
  }

  void CheckEnds() {
    Readback failed, finite;
    failed.Start(failed_);
    finite.Start(finite_);
    const at::Tensor steps = failed.Wait(), whole = finite.Wait();
    CheckDevice();
    for (int64_t edit = 0; edit < steps.numel(); ++edit) {
      const int32_t step = steps.const_data_ptr<int32_t>()[edit];
      if (step != 0) {
        throw Error("LOSS_NOT_FINITE",
                    EditStep(edit, step) + ": the gradient is not finite; lower the learning rate");
      }
      if (whole.const_data_ptr<int32_t>()[edit] == 0) {
        throw Error("LOSS_NOT_FINITE", "edit " + std::to_string(edit) +
                                           ": the values are not finite after the last step; lower the "
                                           "learning rate or the weight decay");
      }
    }
  }

  const AdaptSpec& spec_;
  const DeviceModel& model_;
  const JobControl& control_;
  const std::vector<DeltaPtr>& chosen_;
  bool keep_;
  StepPlan plan_;
  DeviceSchedule schedule_;
  std::vector<StepSize> sizes_;
  FrozenDeltas copies_;
  FrozenStacks frozen_;
  SlotDeltas deltas_;
  TrainStep step_;
  AdaptResult result_;
  std::vector<DeltaPtr> started_;
  at::Tensor failed_, finite_;  // of each edit
  Readback readback_[2];
  int64_t looked_ = 0;
  double done_tokens_ = 0, total_tokens_ = 0, last_loss_ = 0;
};

AdaptPlan Plan(const AdaptSpec& spec, const DeviceModel& model, const Shape& shape) {
  AdaptPlan plan;
  MemoryPlan& memory = plan.memory;
  plan.step_tokens = spec.max_step_tokens > 0 ? spec.max_step_tokens : DefaultStepTokens(model.config());
  const int64_t layers = model.config().layers;
  const int64_t lowest = SlotLayout(*spec.model, shape.parts).lowest();
  const int64_t recorded = layers - std::clamp<int64_t>(lowest, 0, layers);
  const int64_t edits = static_cast<int64_t>(spec.slots.size());
  memory.free = FreeBytes(model.device());
  memory.budget = Usable(memory.free);
  memory.tokens = std::max(plan.step_tokens, shape.largest_batch) + 15;
  memory.token = TrainStep::TokenBytes(model, recorded) + SlotDeltas::TokenBytes(model, shape.parts);
  memory.fixed = TrainStep::FixedBytes(model, memory.tokens, edits);
  memory.each = SlotDeltas::SlotBytes(model, shape.parts, SlotDeltas::Keep::kMoments);
  memory.count = 1;
  const int64_t results = edits * SlotDeltas::ValueBytes(model, shape.parts);
  plan.results_on_device = results <= (memory.budget - memory.total() + memory.each) / 4;
  if (plan.results_on_device) memory.fixed += results;
  if (memory.total() > memory.budget) {
    throw Error("OUT_OF_MEMORY", "one edit needs " + std::to_string(memory.total() >> 20) +
                                     " MiB on the device; " + std::to_string(memory.free >> 20) +
                                     " MiB are free; train fewer values, or lower maxStepTokens");
  }
  memory.count = std::min(edits, 1 + (memory.budget - memory.total()) / memory.each);
  if (spec.max_active_slots > 0) memory.count = std::min(memory.count, spec.max_active_slots);
  return plan;
}

}  // namespace

AdaptPlan PlanAdapt(const AdaptSpec& spec, const DeviceModel& model) {
  CheckAdapt(spec);
  const DeviceScope scope(model.device());
  return Plan(spec, model, ShapeOf(spec));
}

AdaptResult Adapt(const AdaptSpec& spec, const DeviceModel& model, const AdaptOptions& options,
                  const JobControl& control) {
  CheckAdapt(spec);
  const DeviceScope scope(model.device());
  const Shape shape = ShapeOf(spec);
  const std::vector<DeltaPtr> chosen = ChosenSupports(spec, model, control);
  AdaptPlan plan = Plan(spec, model, shape);
  AdaptResult result;
  // Somebody else may have taken what was free: then once more, with half of the slots.
  WithHalving(plan.memory.count, control, "adapt", [&](int64_t slots) {
    plan.memory.count = slots;
    result = Run(spec, model, plan, options, shape, chosen, control).Go();
  });
  return result;
}

}  // namespace selfedit::cuda
