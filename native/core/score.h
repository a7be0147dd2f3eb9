// Likelihoods of given tokens under many forks, and divergences between forks.
#pragma once
#include <vector>

#include "core/delta.h"
#include "core/materialised.h"
#include "core/model.h"

namespace selfedit {

struct ScoreSpec {
  std::shared_ptr<Model> model;
  Ragged rows;
  std::vector<DeltaStack> forks;
  // A fork each: copied weights to use instead of the overlay, or null; empty: none.
  std::vector<std::shared_ptr<const Materialised>> materialised;
  std::vector<int32_t> row_fork;
  double temperature = 1.0;
  int64_t max_batch_tokens = 0;  // 0: kDefaultBatchTokens
};
constexpr int64_t kDefaultBatchTokens = 1024;

// log p(token | tokens before it), one a token; NaN at the first token of each row.
std::vector<double> Score(const ScoreSpec& spec, const JobControl& control);

struct DivergenceSpec {
  std::shared_ptr<Model> model;
  Ragged rows;
  std::vector<DeltaStack> forks;
  std::vector<int32_t> row_fork, row_reference;
  int64_t max_batch_tokens = 0;
};
// KL(p_fork || p_reference) over the vocabulary at every position, in nats.
std::vector<double> Divergence(const DivergenceSpec& spec, const JobControl& control);

// Rows of one forward pass: indices of rows, at least one, at most `max_tokens` tokens when there is more
// than one. Rows that share a fork are neighbours, so that each fork's delta is one product.
std::vector<std::vector<int64_t>> PackRows(const Ragged& rows, const std::vector<int32_t>& group,
                                           int64_t max_tokens);

// Runs body on batches of rows, each row once; after an allocation failure the batches are half as large (see
// WithHalving). The body must be repeatable: it writes results of its rows only.
void ForBatches(const Ragged& rows, const std::vector<int32_t>& group, int64_t max_tokens,
                const JobControl& control, const std::string& what,
                const std::function<void(const std::vector<int64_t>&)>& body);

// The named rows as a batch of their own.
Ragged GatherRows(const Ragged& rows, const std::vector<int64_t>& indices);

// Hidden states after the last norm, [tokens, hidden], of rows that all see one stack; on whatever device the
// model is, the result lies on the host.
at::Tensor HiddenStates(const Model& model, const Ragged& batch, const DeltaStack& stack);

// Throws OPTION_INVALID unless logits can be divided by it.
void CheckTemperature(double temperature, const char* what);

// The value, or LOSS_NOT_FINITE: a delta can make numbers overflow that were finite before, which is told,
// not handed on as NaN.
double CheckFinite(double value, const char* what, int64_t row, int64_t position);

// Throws INPUT_INVALID unless there is one entry a row and each is an index into the forks.
void CheckRowForks(const std::vector<int32_t>& row_fork, int64_t rows, size_t forks);

}  // namespace selfedit
