#include "core/schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"
#include "core/score.h"

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

SlotSteps::SlotSteps(const SlotSpec& spec) : spec_(&spec) { StartEpoch(); }

int64_t SlotSteps::total() const {
  return spec_->epochs * ((documents() + spec_->batch_size - 1) / spec_->batch_size);
}

double SlotSteps::learning_rate() const {
  return spec_->learning_rate * ScheduleFactor(spec_->schedule, done_, spec_->warmup_steps, total());
}

std::vector<int64_t> SlotSteps::NextDocuments() const {
  std::vector<int64_t> next;
  const int64_t end = std::min(documents(), position_ + spec_->batch_size);
  for (int64_t i = position_; i < end; ++i) next.push_back(spec_->first_document + order_[i]);
  return next;
}

void SlotSteps::Advance() {
  ++done_;
  position_ = std::min(documents(), position_ + spec_->batch_size);
  if (position_ < documents()) return;
  ++epoch_;
  StartEpoch();
}

void SlotSteps::StartEpoch() {
  position_ = 0;
  const int32_t n = static_cast<int32_t>(documents());
  if (spec_->shuffle) {
    order_ = Permutation(DeriveKey(spec_->key, "epoch", {static_cast<int32_t>(epoch_)}), n);
  } else {
    order_.resize(n);
    std::iota(order_.begin(), order_.end(), 0);
  }
}

std::vector<size_t> FirstFit(const std::vector<const SlotSteps*>& slots, const Ragged& documents,
                             int64_t most_tokens) {
  std::vector<size_t> order(slots.size()), chosen;
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return slots[a]->remaining() > slots[b]->remaining(); });
  int64_t filled = 0;
  for (const size_t i : order) {
    int64_t tokens = 0;
    for (const int64_t d : slots[i]->NextDocuments()) tokens += documents.length(d);
    if (!chosen.empty() && filled + tokens > most_tokens) continue;
    chosen.push_back(i);
    filled += tokens;
  }
  return chosen;
}

void CheckAdapt(const AdaptSpec& spec) {
  const Ragged& documents = spec.documents;
  CheckRagged(documents, spec.model->config(), "document");
  if (spec.slots.empty()) throw Error("INPUT_INVALID", "there is no edit to adapt to");
  if (!spec.loss_mask.empty() && spec.loss_mask.size() != documents.tokens.size()) {
    throw Error("INPUT_INVALID", "the loss mask has " + std::to_string(spec.loss_mask.size()) +
                                     " entries for " + std::to_string(documents.tokens.size()) + " tokens");
  }
  if (!spec.attended.empty() && static_cast<int64_t>(spec.attended.size()) != documents.rows()) {
    throw Error("INPUT_INVALID", "attended has " + std::to_string(spec.attended.size()) + " entries for " +
                                     std::to_string(documents.rows()) + " documents");
  }
  for (size_t d = 0; d < spec.attended.size(); ++d) {
    const int64_t length = documents.length(static_cast<int64_t>(d));
    if (spec.attended[d] >= 1 && spec.attended[d] <= length) {
      const int64_t window = spec.model->config().sliding_window;
      if (window == 0 || length <= window || spec.attended[d] == length) continue;
      throw Error("OPTION_INVALID", "document " + std::to_string(d) + ": padding to " +
                                        std::to_string(length) +
                                        " tokens reaches beyond the model's window of " +
                                        std::to_string(window) + ", in which it would see nothing");
    }
    throw Error("INPUT_INVALID", "document " + std::to_string(d) + ": " + std::to_string(spec.attended[d]) +
                                     " tokens are attended to; expected 1 to " + std::to_string(length));
  }
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    const SlotSpec& slot = spec.slots[s];
    const std::string name = "edit " + std::to_string(s);
    if (slot.first_document < 0 || slot.last_document > documents.rows() ||
        slot.last_document <= slot.first_document) {
      throw Error("INPUT_INVALID", name + " has no documents");
    }
    const bool trained_as_it_is = slot.init && !slot.init->Only(DeltaKind::kLowRank);
    if (slot.kind == DeltaKind::kLowRank && !trained_as_it_is && (slot.rank < 1 || slot.rank > kMostRank)) {
      throw Error("OPTION_INVALID",
                  "rank is " + std::to_string(slot.rank) + "; expected 1 to " + std::to_string(kMostRank));
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
      throw Error("OPTION_INVALID",
                  name + ": kind is " + DeltaKindName(slot.kind) + "; expected lowRank or sparse");
    }
    if (slot.kind == DeltaKind::kSparse && !slot.init && !spec.attended.empty()) {
      throw Error("OPTION_INVALID", name +
                                        ": the support of a sparse delta cannot be chosen under "
                                        "faithfulPadding; expected kind lowRank, or an initial delta");
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

TrainableDelta StartDelta(const AdaptSpec& spec, const SlotSpec& slot, const JobControl& control,
                          const WeightGradientFunction& gradients) {
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
    return TrainableDelta(
        model, *ChooseSupport(model, slot.stack, GatherRows(spec.documents, own), mask, slot.matrices,
                              slot.density, slot.selection, control, gradients));
  }
  TrainableDelta delta(model, slot.matrices, slot.rank, slot.alpha);
  if (slot.init) {
    delta.InitialiseFrom(*slot.init, model);
  } else {
    delta.Initialise(DeriveKey(slot.key, "init", {}));
  }
  return delta;
}

}  // namespace selfedit
