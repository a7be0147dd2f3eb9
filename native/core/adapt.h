// The inner loop of SEAL: K text edits become K low-rank deltas by K short trainings in lockstep (decisions 3
// to 5).
#pragma once
#include <vector>

#include "core/delta.h"
#include "core/gradient.h"
#include "core/model.h"

namespace selfedit {

enum class Schedule { kConstant, kLinear, kCosine };

// Learning-rate factor of step t (0 first) as in transformers' get_*_schedule_with_warmup.
double ScheduleFactor(Schedule schedule, int64_t step, int64_t warmup, int64_t total);

struct SlotSpec {
  DeltaStack stack;  // what the new delta is trained on top of
  int64_t first_document = 0, last_document = 0;
  int64_t rank = 32;
  double alpha = 64;
  double learning_rate = 1e-3;
  int64_t epochs = 10, batch_size = 1;
  Schedule schedule = Schedule::kLinear;
  int64_t warmup_steps = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double clip = 1.0;  // 0: off
  bool shuffle = true;
  uint64_t key = 0;
  std::vector<int32_t> matrices;
  // lowRank: A and B of `rank`. sparse: values on a support of `density` that is chosen by `selection` on the
  // slot's own documents before the first step.
  DeltaKind kind = DeltaKind::kLowRank;
  double density = 0.01;
  Selection selection = Selection::kGradient;
  // Where to start; null: seeded (lowRank) or zeros (sparse). A delta that is not all low-rank is trained as
  // it is: its values, on its own supports and factors, whatever kind, rank and matrices say.
  DeltaPtr init;
};

struct AdaptSpec {
  std::shared_ptr<Model> model;
  Ragged documents;
  std::vector<uint8_t> loss_mask;  // one a token, empty: all
  // One a document, empty: all its tokens. The first so many are attended to; the rest is padding, which
  // attends to these alone, as under the attention mask of transformers.
  std::vector<int32_t> attended;
  std::vector<SlotSpec> slots;
  int64_t max_step_tokens = 0;  // 0: kDefaultStepTokens, on a GPU by the model's width
  // Equal bits whatever else is in the call. The CPU gives them always; a GPU then keeps to one shape of
  // step.
  bool deterministic = false;
  int64_t max_active_slots =
      0;  // 0: as many as fit into kSlotBytes; finished slots are refilled from the queue
};
constexpr int64_t kDefaultStepTokens = 512;
constexpr int64_t kSlotBytes = int64_t{2} << 30;

struct AdaptResult {
  std::vector<DeltaPtr> deltas;
  std::vector<std::vector<double>> loss;  // of every optimizer step of every slot
  int64_t steps = 0;                      // lockstep steps
};

// A slot's loss is the mean over the predicted tokens of its batch. What a slot becomes never depends on the
// others.
AdaptResult Adapt(const AdaptSpec& spec, const JobControl& control);

}  // namespace selfedit
