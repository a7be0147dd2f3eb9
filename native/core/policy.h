// The policy: a model plus its own trainable low-rank delta, optional value head, optimizer state.
#pragma once
#include <string>
#include <vector>

#include "core/model.h"
#include "core/trainable.h"

namespace selfedit {

struct PolicySpec {
  std::vector<int32_t> matrices;
  int64_t rank = 16;
  double alpha = 32;
  uint64_t key = 0;
  bool value_head = false;
  double value_bias = 0;
};

// One minibatch; vectors "per token" have one entry a token of the rows, "may be empty" where said.
struct PolicyStepSpec {
  Ragged rows;
  bool nll =
      false;  // weighted negative log-likelihood (weights: advantages) instead of the clipped objective
  std::vector<uint8_t> action_mask;
  // old may be empty for nll (no entropy and no distance to it is reported then), reference when
  // kl_coefficient is 0.
  std::vector<float> old_logprobs, reference_logprobs, advantages;
  std::vector<float> returns, old_values;  // empty without a value head
  std::vector<float> importance;           // may be empty: 1
  double temperature = 1, clip_low = 0.2, clip_high = 0.2;
  double kl_coefficient = 0, entropy_coefficient = 0, value_coefficient = 0.5, value_clip = 0.2;
  double normalizer = 1;
  double learning_rate = 1e-4, value_learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0, max_grad_norm = 1;
  int64_t max_batch_tokens = 0;
  bool dry_run = false;
};

struct PolicyStepStats {
  double loss = 0, policy_loss = 0, kl_loss = 0, value_loss = 0, entropy = 0;
  double kl_reference_1 = 0, kl_reference_3 = 0, kl_old_1 = 0, kl_old_3 = 0;
  double clip_fraction = 0, explained_variance = 0, grad_norm = 0, max_logprob_gap = 0;
  int64_t tokens = 0;
};

// Sums over the action tokens of a minibatch, from which the figures of a step are made. They add up over
// parts of it.
struct PolicySums {
  double policy = 0, kl = 0, value = 0, entropy = 0, k1_ref = 0, k3_ref = 0, k1_old = 0, k3_old = 0,
         clipped = 0;
  double returns = 0, returns2 = 0, error = 0, error2 = 0;
  double tokens = 0;
  double gap = 0;  // the largest, not a sum
  static constexpr size_t kCount = 15;
  std::vector<double> List() const;
  static PolicySums From(const std::vector<double>& list);  // throws INPUT_INVALID
};

class ProcessGroup;

class Policy {
 public:
  Policy(std::shared_ptr<Model> model, const PolicySpec& spec);
  const std::shared_ptr<Model>& model() const { return model_; }
  int64_t steps() const { return steps_; }
  bool has_value_head() const { return value_.defined(); }
  int64_t gradient_bytes() const;
  DeltaPtr Snapshot() { return delta_.Share(); }

  // Clipped surrogate objective (PPO, arXiv 1707.06347) token by token:
  // L = 1/normalizer * sum_t [ -w_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) + beta k2_t - c_H H_t +
  // c_V L^V_t ].
  PolicyStepStats Step(const PolicyStepSpec& spec, const JobControl& control);

  // The same step in parts, for a minibatch whose rows are apart on several ranks: Accumulate leaves the
  // gradient of these rows (none: zero), one of the two sums makes it that of the whole minibatch, Apply
  // moves the weights. Rows of other lists are not known, so all that is not a row must be the same
  // everywhere.
  PolicySums Accumulate(const PolicyStepSpec& spec, const JobControl& control);
  // Adds up the ranks' gradients, in an order of the backend's choice.
  void ReduceGradient(ProcessGroup* group, const JobControl& control);
  // Puts the gradient aside, as that of the next group of rows.
  void KeepGradient();
  // The gradient becomes the sum of those put aside, in the order of `owners`: the rank that keeps each.
  // Null: one rank.
  void SumKept(ProcessGroup* group, const std::vector<int32_t>& owners, const JobControl& control);
  // Moves the weights by the gradient that is there; of `spec` only the numbers are read. Throws
  // LOSS_NOT_FINITE before anything has changed.
  PolicyStepStats Apply(const PolicyStepSpec& spec, const PolicySums& sums);
  // SHA-256 of values, moments and counters, in hexadecimal digits.
  std::string Fingerprint();
  // V of the state in which each token is chosen; NaN at the first token of a row.
  std::vector<double> Values(const Ragged& rows, const JobControl& control);

  // Delta values (per part A, then B), then the value head's weights and bias.
  std::vector<double> Parameters() const;
  std::vector<double> Gradients() const;
  void SetParameters(const std::vector<double>& values);
  // Zero moments, and the bias correction of Adam begins anew; values and steps() stay.
  void ResetOptimizer();
  // Values, moments and counters; float32 (float64) safetensors, written atomically. Load checks names and
  // shapes first.
  void Save(const std::string& path);
  void Load(const std::string& path);

 private:
  // One AdamW step on the gradients; all or nothing. Throws LOSS_NOT_FINITE.
  void Move(const PolicyStepSpec& spec);

  std::shared_ptr<Model> model_;
  mutable TrainableDelta delta_;
  at::Tensor value_, value_gradient_, value_first_, value_second_;  // [hidden + 1], bias last
  int64_t steps_ = 0;
  std::vector<at::Tensor> kept_;  // gradients put aside, flat
  int64_t optimizer_start_ = 0;   // steps_ when the moments were last zero
};

}  // namespace selfedit
