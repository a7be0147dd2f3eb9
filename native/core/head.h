// The vocabulary head, chunk by chunk: [tokens, vocabulary] is never materialised (decision 7).
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "core/model.h"
#include "core/overlay.h"

namespace selfedit {

// More rows a chunk read the head fewer times; a chunk of float32 logits over 49,152 tokens is 50 MB.
constexpr int64_t kHeadRows = 256;

// Positions whose next token matters: hidden row `row[i]` predicts `target[i]`.
struct HeadRows {
  std::vector<int64_t> row;
  std::vector<int32_t> target;
  int64_t size() const { return static_cast<int64_t>(row.size()); }
};

// Every position of every document but the last predicts the next one; keep(token index) says which targets
// count.
HeadRows NextTokenRows(const Ragged& batch, const std::function<bool(int64_t)>& keep = {});

// Logits are hidden (W + deltas of the row)^T throughout: plan says which row sees which.
// log p(target | hidden row) of softmax(logits / temperature), in nats.
std::vector<double> HeadLogprobs(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                                 const HeadRows& rows, double temperature);

// One chunk of rows [begin, begin + count): given log-probs and entropies, sets g = dLoss/dlogprob and
// e = dLoss/dentropy (both zero on entry).
using HeadLoss = std::function<void(int64_t begin, int64_t count, const double* logprob,
                                    const double* entropy, double* g, double* e)>;
// Adds the gradients of trainable changes of the head. Returns dLoss/dhidden, [n, hidden]; zero at rows not
// named. entropy is only computed when wanted (else null).
at::Tensor HeadBackward(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                        const HeadRows& rows, double temperature, bool entropy, const HeadLoss& loss);

// KL(softmax(head(a[row])) || softmax(head(b[row]))) at each row, in nats.
std::vector<double> HeadDivergence(const Model& model, const OverlayPlan& plan_a, const at::Tensor& a,
                                   const OverlayPlan& plan_b, const at::Tensor& b,
                                   const std::vector<int64_t>& rows);

// The same, with the gradient: adds sum_i weights[i] dKL_i/da to da [n, hidden], and the gradients of
// trainable changes of the head under plan_a. b is a constant.
std::vector<double> HeadDivergenceBackward(const Model& model, const OverlayPlan& plan_a, const at::Tensor& a,
                                           const OverlayPlan& plan_b, const at::Tensor& b,
                                           const std::vector<int64_t>& rows,
                                           const std::vector<double>& weights, const at::Tensor& da);

// Logits of the named rows, [rows, vocabulary].
at::Tensor HeadLogits(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                      const std::vector<int64_t>& rows);

}  // namespace selfedit
