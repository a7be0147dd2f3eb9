#include "core/adapt.h"

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/schedule.h"
#include "core/trainable.h"
#include "core/transformer.h"
#include "core/workspace.h"
#include "cpu/kernels.h"

namespace selfedit {

namespace {

// A running slot: where it is in its own epochs, and its trainable delta.
class Slot {
 public:
  Slot(const AdaptSpec& spec, int64_t index, const JobControl& control)
      : index(index),
        steps(spec.slots[index]),
        spec_(spec.slots[index]),
        delta_(StartDelta(spec, spec_, control)) {
    // All that a slot will ever hold is held now: no step fails half-way through its slots.
    delta_.first_moment();
    delta_.second_moment();
  }

  TrainableDelta& delta() { return delta_; }
  const DeltaStack& stack() const { return spec_.stack; }

  // One AdamW step on the gradient that lies in the delta.
  template <typename T>
  void Step() {
    cpu::AdamWStep step;
    step.count = delta_.count();
    step.learning_rate = steps.learning_rate();
    step.beta1 = spec_.beta1;
    step.beta2 = spec_.beta2;
    step.epsilon = spec_.epsilon;
    step.weight_decay = spec_.weight_decay;
    step.clip = spec_.clip;
    steps.Advance();
    step.step = steps.done();
    const double norm = cpu::AdamW<T>(delta_.values().template mutable_data_ptr<T>(),
                                      delta_.first_moment().template mutable_data_ptr<T>(),
                                      delta_.second_moment().template mutable_data_ptr<T>(),
                                      delta_.gradient().template const_data_ptr<T>(), step);
    if (!std::isfinite(norm)) {
      throw Error("LOSS_NOT_FINITE", "edit " + std::to_string(index) + ", step " + std::to_string(step.step) +
                                         ": the gradient is not finite; lower the learning rate");
    }
  }

  const int64_t index;
  SlotSteps steps;

 private:
  const SlotSpec& spec_;
  TrainableDelta delta_;
};

class Lockstep {
 public:
  Lockstep(const AdaptSpec& spec, const JobControl& control)
      : spec_(spec), control_(control), plan_(PlanAdapt(spec)) {
    result_.deltas.resize(spec.slots.size());
    result_.loss.resize(spec.slots.size());
    for (const SlotSpec& slot : spec.slots) {
      for (int64_t d = slot.first_document; d < slot.last_document; ++d) {
        total_tokens_ += static_cast<double>(spec.documents.length(d) * slot.epochs);
      }
    }
  }

  AdaptResult Run() {
    while (Refill()) {
      control_.Check();
      // A step that fails has changed nothing but gradients, which the next attempt clears.
      plan_.tokens =
          WithHalving(plan_.tokens, control_, "adapt", [&](int64_t tokens) { Step(Choose(tokens)); });
      for (auto& slot : active_) {
        if (!slot->steps.finished()) continue;
        if (!at::isfinite(slot->delta().values()).all().item<bool>()) {
          // The last step of all: no loss comes after it that would show what it did.
          throw Error("LOSS_NOT_FINITE", "edit " + std::to_string(slot->index) +
                                             ": the values are not finite after the last step; lower the "
                                             "learning rate or the weight decay");
        }
        slot->delta().Finish();
        result_.deltas[slot->index] = slot->delta().Share();
        slot.reset();
      }
      std::erase(active_, nullptr);
      control_.Report({done_tokens_, total_tokens_, static_cast<double>(result_.steps), last_loss_});
    }
    return std::move(result_);
  }

 private:
  // Starts slots from the queue while they fit; false when nothing is left to do.
  bool Refill() {
    const int64_t slots = static_cast<int64_t>(spec_.slots.size());
    while (next_slot_ < slots && static_cast<int64_t>(active_.size()) < plan_.count) {
      try {
        active_.push_back(std::make_unique<Slot>(spec_, next_slot_, control_));
      } catch (...) {
        // The others go on; this one starts when one of them has ended.
        if (!OutOfMemoryNow() || active_.empty()) throw;
        plan_.count = static_cast<int64_t>(active_.size());
        workspace::Trim();
        control_.Warn("adapt: not enough memory for another edit; going on with " +
                      std::to_string(plan_.count) + " at once");
        break;
      }
      ++next_slot_;
    }
    return !active_.empty();
  }

  std::vector<Slot*> Choose(int64_t tokens) {
    std::vector<const SlotSteps*> steps;
    for (const auto& slot : active_) steps.push_back(&slot->steps);
    std::vector<Slot*> chosen;
    for (const size_t i : FirstFit(steps, spec_.documents, tokens)) chosen.push_back(active_[i].get());
    return chosen;
  }

  void Step(const std::vector<Slot*>& chosen) {
    const Model& model = *spec_.model;
    Ragged batch;
    std::vector<DocumentDeltas> deltas;
    std::vector<int32_t> attended;
    std::vector<uint8_t> keep;
    std::vector<int64_t> slot_of_token;
    for (size_t s = 0; s < chosen.size(); ++s) {
      chosen[s]->delta().ZeroGradient();
      for (const int64_t d : chosen[s]->steps.NextDocuments()) {
        const int64_t begin = spec_.documents.offsets[d], length = spec_.documents.length(d);
        batch.Append(spec_.documents.tokens.data() + begin, length);
        deltas.push_back({&chosen[s]->stack(), &chosen[s]->delta().view()});
        if (!spec_.attended.empty()) attended.push_back(spec_.attended[d]);
        for (int64_t i = 0; i < length; ++i) {
          keep.push_back(i > 0 && (spec_.loss_mask.empty() || spec_.loss_mask[begin + i] != 0));
          slot_of_token.push_back(static_cast<int64_t>(s));
        }
      }
    }
    const OverlayPlan plan = MakeOverlayPlan(model, batch.offsets, deltas);
    RaggedAttention attention(model.config(), batch.offsets, std::move(attended));
    const at::Tensor positions = PositionTensor(batch.offsets);
    Tape tape;
    const at::Tensor tokens = TokenTensor(batch);
    const at::Tensor hidden = TransformerForward(model, tokens, positions, plan, attention, &tape);

    const HeadRows rows = NextTokenRows(batch, [&](int64_t token) { return keep[token] != 0; });
    std::vector<double> count(chosen.size(), 0.0), loss(chosen.size(), 0.0);
    for (const int64_t row : rows.row) count[slot_of_token[row]] += 1;
    const at::Tensor dhidden =
        HeadBackward(model, plan, hidden, rows, 1.0, false,
                     [&](int64_t begin, int64_t n, const double* logprob, const double*, double* g, double*) {
                       for (int64_t i = 0; i < n; ++i) {
                         const int64_t slot = slot_of_token[rows.row[begin + i]];
                         loss[slot] -= logprob[i] / count[slot];
                         g[i] = -1.0 / count[slot];
                       }
                     });
    for (size_t s = 0; s < chosen.size(); ++s) {
      if (!std::isfinite(loss[s])) {
        throw Error("LOSS_NOT_FINITE", "edit " + std::to_string(chosen[s]->index) + ", step " +
                                           std::to_string(result_.loss[chosen[s]->index].size() + 1) +
                                           ": the loss is " + std::to_string(loss[s]) +
                                           "; lower the learning rate");
      }
    }
    TransformerBackward(model, tokens, positions, plan, attention, tape, dhidden);
    last_loss_ = 0;
    for (size_t s = 0; s < chosen.size(); ++s) {
      if (hidden.scalar_type() == at::kDouble) {
        chosen[s]->Step<double>();
      } else {
        chosen[s]->Step<float>();
      }
      result_.loss[chosen[s]->index].push_back(loss[s]);
      last_loss_ += loss[s] / static_cast<double>(chosen.size());
    }
    done_tokens_ += static_cast<double>(batch.tokens.size());
    ++result_.steps;
  }

  const AdaptSpec& spec_;
  const JobControl& control_;
  MemoryPlan plan_;
  AdaptResult result_;
  std::vector<std::unique_ptr<Slot>> active_;
  int64_t next_slot_ = 0;
  double done_tokens_ = 0, total_tokens_ = 0, last_loss_ = 0;
};

}  // namespace

AdaptResult Adapt(const AdaptSpec& spec, const JobControl& control) {
  CheckAdapt(spec);
  if (!spec.attended.empty()) RequireCpu(*spec.model, "faithfulPadding");
  if (OnDevice(*spec.model)) return CudaAccelerator().adapt(spec, control);
  return Lockstep(spec, control).Run();
}

}  // namespace selfedit
