// What the inner loop does when, without the doing: which documents a slot trains on in each of its steps,
// and which slots share a step. The CPU's loop asks step by step; a device gets the whole of it uploaded.
#pragma once
#include <vector>

#include "core/adapt.h"
#include "core/trainable.h"

namespace selfedit {

// Where a slot is in its own epochs.
class SlotSteps {
 public:
  explicit SlotSteps(const SlotSpec& spec);
  int64_t documents() const { return spec_->last_document - spec_->first_document; }
  int64_t total() const;
  int64_t done() const { return done_; }
  int64_t remaining() const { return total() - done_; }
  bool finished() const { return done_ >= total(); }
  // Of the next step: its learning rate, and its documents as indices into the call's.
  double learning_rate() const;
  std::vector<int64_t> NextDocuments() const;
  void Advance();

 private:
  void StartEpoch();
  const SlotSpec* spec_;
  std::vector<int32_t> order_;
  int64_t position_ = 0, epoch_ = 0, done_ = 0;
};

// First fit, the slot with most steps left first; a slot that does not fit sits this step out. The first one
// always fits. Returns indices in the order chosen.
std::vector<size_t> FirstFit(const std::vector<const SlotSteps*>& slots, const Ragged& documents,
                             int64_t most_tokens);

// Throws what is wrong with a call of adapt.
void CheckAdapt(const AdaptSpec& spec);

// A slot's delta before its first step. Gradients choose the support of a sparse one.
TrainableDelta StartDelta(const AdaptSpec& spec, const SlotSpec& slot, const JobControl& control,
                          const WeightGradientFunction& gradients = WeightGradients);

}  // namespace selfedit
