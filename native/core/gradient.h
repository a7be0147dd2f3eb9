// The gradient of a loss of edited models with respect to the values of their deltas, of any kind, through
// the whole model (decision 1): the backward half of the one numeric primitive.
#pragma once
#include <functional>
#include <type_traits>
#include <vector>

#include "core/delta.h"
#include "core/head.h"
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
// Throws LOSS_NOT_FINITE, naming the first weight whose gradient is not finite.
void CheckWeightGradients(const Model& model, const std::vector<int32_t>& matrices,
                          const std::vector<at::Tensor>& gradients);
using WeightGradientFunction = std::function<std::remove_pointer_t<decltype(&WeightGradients)>>;

// Batches of these documents, and what each token of a batch adds to the loss: the gradients of log-probs are
// -1 / (targets of the document). `batch` is called with the documents' rows, the rows that predict, and
// their gradients, in order.
using DocumentBatch =
    std::function<void(const Ragged& batch, const HeadRows& rows, const std::vector<double>& cotangents)>;
void ForDocumentBatches(const Ragged& documents, const std::vector<uint8_t>& loss_mask, int64_t most_tokens,
                        const JobControl& control, const DocumentBatch& batch);

// A sparse delta of zeros whose support is the `density` (0 to 1, rounded up to whole values) of each weight
// with the largest magnitudes of WeightGradients; ties keep the lower index.
DeltaPtr ChooseSupport(const Model& model, const DeltaStack& stack, const Ragged& documents,
                       const std::vector<uint8_t>& loss_mask, const std::vector<int32_t>& matrices,
                       double density, Selection selection, const JobControl& control,
                       const WeightGradientFunction& gradients = WeightGradients);

}  // namespace selfedit
