// The gradient of a loss of edited models with respect to the values of their deltas, of any kind, through
// the whole model (decision 1): the backward half of the one numeric primitive.
#pragma once
#include <vector>

#include "core/delta.h"
#include "core/model.h"

namespace selfedit {

struct GradientSpec {
  std::shared_ptr<Model> model;
  Ragged rows;
  std::vector<DeltaStack> forks;
  std::vector<int32_t> row_fork;
  // A fork each: which delta of its stack; -1 for a fork that rows are only compared with.
  std::vector<int32_t> level;
  std::vector<double> cotangents;  // a token each: dLoss / dlogprob; not used at the first token of a row
  double temperature = 1.0;
  // KL(row's fork || reference) over the vocabulary joins the loss: the fork that a row is compared with, -1
  // for none (empty: none at all), and dLoss / dKL at each token's position. The reference is a constant.
  std::vector<int32_t> row_reference;
  std::vector<double> divergence_cotangents;
  int64_t max_batch_tokens = 0;  // 0: kDefaultBatchTokens
};

struct GradientResult {
  std::vector<DeltaPtr>
      gradients;  // a fork each (null at level -1): parts like the delta's, gradients for values
  std::vector<double> logprobs;    // a token each; NaN at the first token of a row
  std::vector<double> divergence;  // a token each; NaN in rows without a reference
};

GradientResult Gradient(const GradientSpec& spec, const JobControl& control);

// Sum over documents of dLoss/dW (of each document's mean loss), or of its squares (the empirical Fisher
// information), for the named weights on top of a stack: [out, in] each.
enum class Selection { kGradient, kFisher };
std::vector<at::Tensor> WeightGradients(const Model& model, const DeltaStack& stack, const Ragged& documents,
                                        const std::vector<uint8_t>& loss_mask,
                                        const std::vector<int32_t>& matrices, Selection selection,
                                        const JobControl& control);

// A sparse delta of zeros whose support is the `density` (0 to 1, rounded up to whole values) of each weight
// with the largest magnitudes of WeightGradients; ties keep the lower index.
DeltaPtr ChooseSupport(const Model& model, const DeltaStack& stack, const Ragged& documents,
                       const std::vector<uint8_t>& loss_mask, const std::vector<int32_t>& matrices,
                       double density, Selection selection, const JobControl& control);

}  // namespace selfedit
