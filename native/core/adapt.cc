#include "core/adapt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/head.h"
#include "core/random.h"
#include "core/score.h"
#include "core/trainable.h"
#include "core/transformer.h"
#include "cpu/kernels.h"

namespace selfedit {

double ScheduleFactor(Schedule schedule, int64_t step, int64_t warmup, int64_t total) {
  if (step < warmup) return static_cast<double>(step) / std::max<int64_t>(1, warmup);
  const double rest = std::max<int64_t>(1, total - warmup);
  switch (schedule) {
    case Schedule::kLinear:
      return std::max(0.0, static_cast<double>(total - step) / rest);
    case Schedule::kCosine:
      return std::max(0.0, 0.5 * (1.0 + std::cos(M_PI * static_cast<double>(step - warmup) / rest)));
    default:
      return 1.0;
  }
}

namespace {

// A running slot: where it is in its own epochs, and its trainable delta.
class Slot {
 public:
  Slot(const AdaptSpec& spec, int64_t index, const JobControl& control)
      : index(index), spec_(spec.slots[index]), delta_(Start(spec, spec_, control)) {
    StartEpoch();
  }

  int64_t documents() const { return spec_.last_document - spec_.first_document; }
  int64_t total_steps() const {
    return spec_.epochs * ((documents() + spec_.batch_size - 1) / spec_.batch_size);
  }
  bool finished() const { return step_ >= total_steps(); }
  int64_t remaining_steps() const { return total_steps() - step_; }

  // Documents of the slot's next optimizer step.
  std::vector<int64_t> NextDocuments() const {
    std::vector<int64_t> next;
    const int64_t end = std::min(documents(), position_ + spec_.batch_size);
    for (int64_t i = position_; i < end; ++i) next.push_back(spec_.first_document + order_[i]);
    return next;
  }

  TrainableDelta& delta() { return delta_; }
  const DeltaStack& stack() const { return spec_.stack; }

  // One AdamW step on the gradient that lies in the delta.
  template <typename T>
  void Step() {
    cpu::AdamWStep step;
    step.count = delta_.count();
    step.learning_rate =
        spec_.learning_rate * ScheduleFactor(spec_.schedule, step_, spec_.warmup_steps, total_steps());
    step.beta1 = spec_.beta1;
    step.beta2 = spec_.beta2;
    step.epsilon = spec_.epsilon;
    step.weight_decay = spec_.weight_decay;
    step.clip = spec_.clip;
    step.step = ++step_;
    const double norm = cpu::AdamW<T>(delta_.values().template mutable_data_ptr<T>(),
                                      delta_.first_moment().template mutable_data_ptr<T>(),
                                      delta_.second_moment().template mutable_data_ptr<T>(),
                                      delta_.gradient().template const_data_ptr<T>(), step);
    if (!std::isfinite(norm)) {
      throw Error("LOSS_NOT_FINITE", "edit " + std::to_string(index) + ", step " + std::to_string(step_) +
                                         ": the gradient is not finite; lower the learning rate");
    }
    position_ = std::min(documents(), position_ + spec_.batch_size);
    if (position_ >= documents()) {
      ++epoch_;
      StartEpoch();
    }
  }

  const int64_t index;

 private:
  void StartEpoch() {
    position_ = 0;
    const int32_t n = static_cast<int32_t>(documents());
    if (spec_.shuffle) {
      order_ = Permutation(DeriveKey(spec_.key, "epoch", {static_cast<int32_t>(epoch_)}), n);
    } else {
      order_.resize(n);
      for (int32_t i = 0; i < n; ++i) order_[i] = i;
    }
  }

  static TrainableDelta Start(const AdaptSpec& spec, const SlotSpec& slot, const JobControl& control) {
    const Model& model = *spec.model;
    if (slot.init && !slot.init->Only(DeltaKind::kLowRank)) return TrainableDelta(model, *slot.init);
    if (slot.kind == DeltaKind::kSparse) {
      std::vector<int64_t> own(slot.last_document - slot.first_document);
      std::iota(own.begin(), own.end(), slot.first_document);
      std::vector<uint8_t> mask;
      if (!spec.loss_mask.empty()) {
        mask.assign(spec.loss_mask.begin() + spec.documents.offsets[slot.first_document],
                    spec.loss_mask.begin() + spec.documents.offsets[slot.last_document]);
      }
      return TrainableDelta(model, *ChooseSupport(model, slot.stack, GatherRows(spec.documents, own), mask,
                                                  slot.matrices, slot.density, slot.selection, control));
    }
    TrainableDelta delta(model, slot.matrices, slot.rank, slot.alpha);
    if (slot.init) {
      delta.InitialiseFrom(*slot.init, model);
    } else {
      delta.Initialise(DeriveKey(slot.key, "init", {}));
    }
    return delta;
  }

  const SlotSpec& spec_;
  TrainableDelta delta_;
  std::vector<int32_t> order_;
  int64_t position_ = 0, epoch_ = 0, step_ = 0;
};

void Check(const AdaptSpec& spec) {
  const Ragged& documents = spec.documents;
  CheckRagged(documents, spec.model->config(), "document");
  if (spec.slots.empty()) throw Error("INPUT_INVALID", "there is no edit to adapt to");
  if (!spec.loss_mask.empty() && spec.loss_mask.size() != documents.tokens.size()) {
    throw Error("INPUT_INVALID", "the loss mask has " + std::to_string(spec.loss_mask.size()) +
                                     " entries for " + std::to_string(documents.tokens.size()) + " tokens");
  }
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    const SlotSpec& slot = spec.slots[s];
    const std::string name = "edit " + std::to_string(s);
    if (slot.first_document < 0 || slot.last_document > documents.rows() ||
        slot.last_document <= slot.first_document) {
      throw Error("INPUT_INVALID", name + " has no documents");
    }
    if (slot.epochs < 1 || slot.batch_size < 1 || slot.warmup_steps < 0) {
      throw Error("OPTION_INVALID",
                  name + ": epochs and batchSize must be at least 1, warmupSteps at least 0");
    }
    if (!(slot.learning_rate >= 0) || !std::isfinite(slot.learning_rate)) {
      throw Error("OPTION_INVALID", name + ": the learning rate must be a number of at least 0");
    }
    if (!(slot.beta1 >= 0 && slot.beta1 < 1 && slot.beta2 >= 0 && slot.beta2 < 1 && slot.epsilon > 0 &&
          slot.weight_decay >= 0 && slot.clip >= 0)) {
      throw Error("OPTION_INVALID",
                  name + ": betas must lie in [0, 1), epsilon above 0, weightDecay and clip at or above 0");
    }
    if (slot.kind != DeltaKind::kLowRank && slot.kind != DeltaKind::kSparse) {
      throw Error("OPTION_INVALID", name + ": kind is " + DeltaKindName(slot.kind) + "; expected lowRank or sparse");
    }
    if (slot.kind == DeltaKind::kSparse && slot.matrices.empty() && !slot.init)
      throw Error("TARGET_UNKNOWN", "no matrix is chosen for the delta");
    for (int64_t d = slot.first_document; d < slot.last_document; ++d) {
      bool carries = false;
      for (int64_t i = documents.offsets[d] + 1; i < documents.offsets[d + 1]; ++i) {
        carries |= spec.loss_mask.empty() || spec.loss_mask[i] != 0;
      }
      if (!carries) {
        throw Error("INPUT_INVALID",
                    name + ", document " + std::to_string(d - slot.first_document) + " (" +
                        std::to_string(documents.length(d)) +
                        " tokens) has no token that carries loss; expected at least 2 tokens");
      }
    }
  }
}

class Lockstep {
 public:
  Lockstep(const AdaptSpec& spec, const JobControl& control) : spec_(spec), control_(control) {
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
      Step(Choose());
      for (auto& slot : active_) {
        if (!slot->finished()) continue;
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
    while (next_slot_ < slots) {
      const int64_t limit = spec_.max_active_slots;
      int64_t held = 0;
      for (const auto& slot : active_) held += slot->delta().count() * 16;
      const bool full = limit > 0 ? static_cast<int64_t>(active_.size()) >= limit : held >= kSlotBytes;
      if (full && !active_.empty()) break;
      active_.push_back(std::make_unique<Slot>(spec_, next_slot_++, control_));
    }
    return !active_.empty();
  }

  // First fit, the slot with the most steps left first; a slot that does not fit sits this step out.
  std::vector<Slot*> Choose() {
    std::vector<Slot*> order;
    for (const auto& slot : active_) order.push_back(slot.get());
    std::stable_sort(order.begin(), order.end(), [](const Slot* a, const Slot* b) {
      return a->remaining_steps() > b->remaining_steps();
    });
    const int64_t most = spec_.max_step_tokens > 0 ? spec_.max_step_tokens : kDefaultStepTokens;
    std::vector<Slot*> chosen;
    int64_t filled = 0;
    for (Slot* slot : order) {
      int64_t tokens = 0;
      for (const int64_t d : slot->NextDocuments()) tokens += spec_.documents.length(d);
      if (!chosen.empty() && filled + tokens > most) continue;
      chosen.push_back(slot);
      filled += tokens;
    }
    return chosen;
  }

  void Step(const std::vector<Slot*>& chosen) {
    const Model& model = *spec_.model;
    Ragged batch;
    std::vector<DocumentDeltas> deltas;
    std::vector<uint8_t> keep;
    std::vector<int64_t> slot_of_token;
    for (size_t s = 0; s < chosen.size(); ++s) {
      chosen[s]->delta().ZeroGradient();
      for (const int64_t d : chosen[s]->NextDocuments()) {
        const int64_t begin = spec_.documents.offsets[d], length = spec_.documents.length(d);
        batch.Append(spec_.documents.tokens.data() + begin, length);
        deltas.push_back({&chosen[s]->stack(), &chosen[s]->delta().view()});
        for (int64_t i = 0; i < length; ++i) {
          keep.push_back(i > 0 && (spec_.loss_mask.empty() || spec_.loss_mask[begin + i] != 0));
          slot_of_token.push_back(static_cast<int64_t>(s));
        }
      }
    }
    const OverlayPlan plan = MakeOverlayPlan(model, batch.offsets, deltas);
    RaggedAttention attention(model.config(), batch.offsets);
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
  AdaptResult result_;
  std::vector<std::unique_ptr<Slot>> active_;
  int64_t next_slot_ = 0;
  double done_tokens_ = 0, total_tokens_ = 0, last_loss_ = 0;
};

}  // namespace

AdaptResult Adapt(const AdaptSpec& spec, const JobControl& control) {
  Check(spec);
  return Lockstep(spec, control).Run();
}

}  // namespace selfedit
