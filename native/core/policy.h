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

class Policy {
 public:
  Policy(std::shared_ptr<Model> model, const PolicySpec& spec);
  const std::shared_ptr<Model>& model() const { return model_; }
  int64_t steps() const { return steps_; }
  bool has_value_head() const { return value_.defined(); }
  DeltaPtr Snapshot() { return delta_.Share(); }

  // Clipped surrogate objective (PPO, arXiv 1707.06347) token by token:
  // L = 1/normalizer * sum_t [ -w_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) + beta k2_t - c_H H_t +
  // c_V L^V_t ].
  PolicyStepStats Step(const PolicyStepSpec& spec, const JobControl& control);
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
  int64_t optimizer_start_ = 0;  // steps_ when the moments were last zero
};

}  // namespace selfedit
