// The edit head: reads a context (the policy's hidden states) and emits the Gaussian over the vectors of an
// edit space, diagonal, one standard deviation a target matrix.
#pragma once
#include <string>
#include <vector>

#include "core/edit_space.h"

namespace selfedit {

struct EditHeadSpec {
  std::vector<SpaceChoice> choices;
  bool learnt_basis = false;  // the basis is a parameter, trained by gradients through the edit
  uint64_t key = 0;
};

// One optimizer step. N samples of C contexts; d entries a vector, M blocks, c hidden size. With mu_c the
// mean that the head emits for context c and r_im the likelihood ratio of block m of sample i,
//   L = -1/N sum_i sum_m min(r_im A_i, clip(r_im, 1 - low, 1 + high) A_i)      (PPO, arXiv 1707.06347)
//       + sum_c <gradient_c, mu_c> + <basis_gradient, basis>
//       + beta / C sum_c KL(N(mu_c, sigma) || N(0, sigma))
// At ratio 1 the first line's gradient is that of the whole vector's policy gradient. The second line stands
// for a loss whose gradient the caller has; the third is the distance to the untrained head in closed form.
struct HeadStepSpec {
  std::vector<float> features;        // [C, c]
  std::vector<int32_t> context;       // [N]
  std::vector<float> vectors;         // [N, d]
  std::vector<float> old_means;       // [N, d]
  std::vector<float> old_noise;       // [M]; the standard deviations that the samples were drawn with
  std::vector<float> advantages;      // [N]
  std::vector<float> gradient;        // [C, d], or empty
  std::vector<float> basis_gradient;  // or empty
  double clip_low = 0.2, clip_high = 0.2, kl_coefficient = 0;
  double learning_rate = 0.05, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0,
         max_grad_norm = 1;
  bool dry_run = false;
};

struct HeadStepStats {
  double loss = 0, policy_loss = 0, kl_loss = 0;
  double kl_start = 0;       // KL(now || untrained), nats a vector, mean over contexts
  double kl_old = 0;         // KL(sampling || now), nats a vector, mean over samples
  double entropy = 0;        // of the Gaussian, nats a vector
  double clip_fraction = 0;  // of blocks
  double grad_norm = 0;
};

struct PulledBack {
  std::vector<double> vectors;  // [N, d]
  at::Tensor basis;             // float32, summed over the edits; empty when the basis is fixed
};

class EditHead {
 public:
  EditHead(std::shared_ptr<Model> model, const EditHeadSpec& spec);
  const std::shared_ptr<Model>& model() const { return model_; }
  const EditSpace& space() const { return space_; }
  int64_t features() const { return model_->config().hidden_size; }
  int64_t steps() const { return steps_; }
  const at::Tensor& basis() const { return basis_; }
  bool learnt_basis() const { return learnt_basis_; }

  // Mean hidden state of each row under a stack of deltas, scaled to root mean square 1: [rows, c].
  std::vector<double> Features(const DeltaStack& stack, const Ragged& rows, const JobControl& control) const;
  // [C, d] from features [C, c]: mu = unit (bias + W f / c). Dividing by c makes the learning rate mean the
  // same for every model: one AdamW step moves an entry by about (learning rate) units.
  std::vector<double> Means(const std::vector<float>& features) const;
  // [C samples, d]: mean plus noise, context by context, keyed by the context's key and the sample's index.
  // Antithetic: samples 2 i and 2 i + 1 are mirror images in the mean.
  std::vector<double> Sample(const std::vector<float>& means, const std::vector<uint64_t>& keys,
                             int64_t samples, bool antithetic) const;

  // dLoss/dvector of N edits and dLoss/dbasis (EditSpace::PullBack). Throws LOSS_NOT_FINITE where a number is
  // not finite in float32.
  PulledBack PullBack(const std::vector<DeltaPtr>& materials, const std::vector<double>& vectors,
                      const std::vector<DeltaPtr>& gradients, const JobControl& control) const;

  // Standard deviation of each block's entries. Until the first step the head's unit follows it, so that
  // means are emitted in units of the noise that the head was calibrated to.
  const std::vector<double>& noise() const { return noise_; }
  void SetNoise(const std::vector<double>& noise);

  // Throws LOSS_NOT_FINITE before anything has changed.
  HeadStepStats Step(const HeadStepSpec& spec, const JobControl& control);

  // W row by row with the bias last, [d, c + 1], then the basis when it is learnt.
  std::vector<double> Parameters() const;
  std::vector<double> Gradients() const;  // of the last step, before clipping
  void SetParameters(const std::vector<double>& values);
  // Everything that the next step depends on, as safetensors, written atomically; bit-exact. Load refuses a
  // head of another space or model (FILE_FORMAT, naming the first difference) before anything has changed.
  void Save(const std::string& path) const;
  void Load(const std::string& path);

 private:
  at::Tensor Weights(const at::Tensor& flat) const;             // [d, c + 1]
  at::Tensor Inputs(const std::vector<float>& features) const;  // [C, c + 1], float64
  std::string Describe() const;
  void PointBasis();

  std::shared_ptr<Model> model_;
  EditSpace space_;
  bool learnt_basis_;
  at::Tensor values_, gradient_, first_, second_;  // flat
  at::Tensor basis_;                               // of values_ when learnt
  std::vector<double> noise_, unit_;               // [M]
  int64_t steps_ = 0;
};

}  // namespace selfedit
