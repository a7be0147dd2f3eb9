#include "core/gradient.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/references.h"
#include "core/score.h"
#include "core/support.h"
#include "core/trainable.h"
#include "core/transformer.h"

namespace selfedit {
namespace {

// The part of a batch's loss that is a divergence: positions, their weights, what they are compared with.
struct DivergenceTerm {
  std::vector<int64_t> rows;
  std::vector<double> weights;
  std::vector<DocumentDeltas> reference;  // a document each
  at::Tensor hidden;                      // under the reference, [tokens, hidden]
  std::vector<double> found;              // KL by position
};

// Forward and backward of one batch; the gradients are added to what the documents train. Returns log-probs
// by target.
std::vector<double> BackwardPass(const Model& model, const Ragged& batch,
                                 const std::vector<DocumentDeltas>& deltas, const HeadRows& rows,
                                 double temperature, const std::vector<double>& cotangents,
                                 DivergenceTerm* term = nullptr) {
  const OverlayPlan plan = MakeOverlayPlan(model, batch.offsets, deltas);
  RaggedAttention attention(model.config(), batch.offsets);
  const at::Tensor tokens = TokenTensor(batch), positions = PositionTensor(batch.offsets);
  Tape tape;
  const at::Tensor hidden = TransformerForward(model, tokens, positions, plan, attention, &tape);
  std::vector<double> logprobs(rows.size());
  const at::Tensor dhidden =
      HeadBackward(model, plan, hidden, rows, temperature, false,
                   [&](int64_t begin, int64_t n, const double* logprob, const double*, double* g, double*) {
                     for (int64_t i = 0; i < n; ++i) {
                       logprobs[begin + i] = logprob[i];
                       g[i] = cotangents[begin + i];
                     }
                   });
  if (term != nullptr && !term->rows.empty()) {
    const OverlayPlan other = MakeOverlayPlan(model, batch.offsets, term->reference);
    term->found =
        HeadDivergenceBackward(model, plan, hidden, other, term->hidden, term->rows, term->weights, dhidden);
  }
  TransformerBackward(model, tokens, positions, plan, attention, tape, dhidden);
  return logprobs;
}

void Check(const GradientSpec& spec) {
  CheckRagged(spec.rows, spec.model->config(), "row");
  CheckRowForks(spec.row_fork, spec.rows.rows(), spec.forks.size());
  CheckTemperature(spec.temperature, "a gradient");
  if (spec.cotangents.size() != spec.rows.tokens.size()) {
    throw Error("INPUT_INVALID", "there are " + std::to_string(spec.cotangents.size()) + " weights for " +
                                     std::to_string(spec.rows.tokens.size()) +
                                     " tokens; expected one a token");
  }
  for (size_t t = 0; t < spec.cotangents.size(); ++t) {
    if (std::isfinite(spec.cotangents[t])) continue;
    throw Error("INPUT_INVALID", "the weight of token " + std::to_string(t) + " is not finite");
  }
  if (spec.row_reference.empty() != spec.divergence_cotangents.empty()) {
    throw Error("INPUT_INVALID", "a divergence needs references and weights; found only one of them");
  }
  if (!spec.row_reference.empty()) {
    std::vector<int32_t> given = spec.row_reference;
    std::erase(given, -1);
    CheckRowForks(given, static_cast<int64_t>(given.size()), spec.forks.size());
    if (static_cast<int64_t>(spec.row_reference.size()) != spec.rows.rows() ||
        spec.divergence_cotangents.size() != spec.rows.tokens.size()) {
      throw Error("INPUT_INVALID", "a divergence needs one reference a row and one weight a token");
    }
    for (size_t t = 0; t < spec.divergence_cotangents.size(); ++t) {
      if (std::isfinite(spec.divergence_cotangents[t])) continue;
      throw Error("INPUT_INVALID",
                  "the divergence's weight of token " + std::to_string(t) + " is not finite");
    }
  }
  if (spec.level.size() != spec.forks.size()) {
    throw Error("INPUT_INVALID", "every fork needs the index of the delta that is differentiated");
  }
  for (size_t f = 0; f < spec.forks.size(); ++f) {
    if (spec.level[f] >= 0 && spec.level[f] < static_cast<int64_t>(spec.forks[f].size())) continue;
    const auto names = [&](int32_t row) { return row == static_cast<int32_t>(f); };
    const bool trained = std::any_of(spec.row_fork.begin(), spec.row_fork.end(), names);
    if (!trained && spec.level[f] == -1) continue;  // only compared with
    throw Error("OPTION_INVALID", "fork " + std::to_string(f) + " holds " +
                                      std::to_string(spec.forks[f].size()) +
                                      " deltas; there is none with index " + std::to_string(spec.level[f]));
  }
}

}  // namespace

GradientResult Gradient(const GradientSpec& spec, const JobControl& control) {
  Check(spec);
  if (OnDevice(*spec.model)) {
    if (!spec.row_reference.empty()) RequireCpu(*spec.model, "a divergence in the loss of a gradient");
    return CudaAccelerator().gradient(spec, control);
  }
  const Model& model = *spec.model;
  // Changes add up, so the differentiated delta may lie on top of the others.
  std::vector<DeltaStack> rest = spec.forks;
  std::vector<std::unique_ptr<TrainableDelta>> trained;
  for (size_t f = 0; f < rest.size(); ++f) {
    if (spec.level[f] < 0) {
      trained.push_back(nullptr);
      continue;
    }
    const AppliedDelta& applied = spec.forks[f][spec.level[f]];
    trained.push_back(std::make_unique<TrainableDelta>(model, *applied.delta, applied.scale));
    rest[f].erase(rest[f].begin() + spec.level[f]);
  }
  GradientResult result;
  result.logprobs.assign(spec.rows.tokens.size(), std::numeric_limits<double>::quiet_NaN());
  result.divergence = result.logprobs;
  const int64_t most = spec.max_batch_tokens > 0 ? spec.max_batch_tokens : kDefaultBatchTokens;
  References references(model, spec.rows, spec.forks, spec.row_reference);
  const auto pass = [&](int64_t tokens) {
    // Gradients add up over batches: an attempt begins at zero.
    for (const auto& delta : trained) {
      if (delta) delta->ZeroGradient();
    }
    double done = 0, step = 0;
    for (const auto& indices : PackRows(spec.rows, spec.row_fork, tokens)) {
      control.Check();
      const Ragged batch = GatherRows(spec.rows, indices);
      std::vector<DocumentDeltas> deltas;
      std::vector<double> cotangents;
      std::vector<int64_t> source, compared;
      DivergenceTerm term;
      int64_t begin = 0;
      for (const int64_t row : indices) {
        const int32_t fork = spec.row_fork[row];
        deltas.push_back({&rest[fork], &trained[fork]->view()});
        const int32_t reference = spec.row_reference.empty() ? -1 : spec.row_reference[row];
        term.reference.push_back({&spec.forks[std::max(reference, 0)], nullptr});
        for (int64_t t = spec.rows.offsets[row]; reference >= 0 && t < spec.rows.offsets[row + 1]; ++t) {
          term.rows.push_back(begin + t - spec.rows.offsets[row]);
          term.weights.push_back(spec.divergence_cotangents[t]);
          compared.push_back(t);
        }
        begin += spec.rows.length(row);
        for (int64_t t = spec.rows.offsets[row] + 1; t < spec.rows.offsets[row + 1]; ++t) {
          cotangents.push_back(spec.cotangents[t]);
          source.push_back(t);
        }
      }
      if (!term.rows.empty()) term.hidden = references.Hidden(indices);
      const std::vector<double> logprobs =
          BackwardPass(model, batch, deltas, NextTokenRows(batch), spec.temperature, cotangents, &term);
      for (size_t i = 0; i < source.size(); ++i) result.logprobs[source[i]] = logprobs[i];
      for (size_t i = 0; i < compared.size(); ++i) result.divergence[compared[i]] = term.found[i];
      done += static_cast<double>(batch.tokens.size());
      control.Report({done, static_cast<double>(spec.rows.tokens.size()), ++step, NAN});
    }
  };
  WithHalving(most, control, "gradient", pass);
  for (const auto& delta : trained) {
    if (!delta) {
      result.gradients.push_back(nullptr);
      continue;
    }
    if (!at::isfinite(delta->gradient()).all().item<bool>()) {
      throw Error("LOSS_NOT_FINITE", "the gradient is not finite; the fork's values overflow");
    }
    result.gradients.push_back(delta->ShareGradient());
  }
  return result;
}

void ForDocumentBatches(const Ragged& documents, const std::vector<uint8_t>& loss_mask, int64_t most_tokens,
                        const JobControl& control, const DocumentBatch& body) {
  for (const auto& indices : PackRows(documents, std::vector<int32_t>(documents.rows(), 0), most_tokens)) {
    control.Check();
    const Ragged batch = GatherRows(documents, indices);
    std::vector<int64_t> source;
    for (const int64_t row : indices) {
      for (int64_t t = documents.offsets[row]; t < documents.offsets[row + 1]; ++t) source.push_back(t);
    }
    const HeadRows rows = NextTokenRows(
        batch, [&](int64_t token) { return loss_mask.empty() || loss_mask[source[token]] != 0; });
    std::vector<double> count(batch.rows(), 0.0), cotangents;
    std::vector<int64_t> document(batch.tokens.size());
    for (int64_t d = 0; d < batch.rows(); ++d) {
      std::fill(document.begin() + batch.offsets[d], document.begin() + batch.offsets[d + 1], d);
    }
    for (const int64_t row : rows.row) count[document[row]] += 1;
    for (const int64_t row : rows.row) cotangents.push_back(-1.0 / count[document[row]]);
    body(batch, rows, cotangents);
  }
}

void CheckWeightGradients(const Model& model, const std::vector<int32_t>& matrices,
                          const std::vector<at::Tensor>& gradients) {
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (at::isfinite(gradients[i]).all().item<bool>()) continue;
    throw Error("LOSS_NOT_FINITE", "the gradient of \"" + model.tensors()[matrices[i]].name +
                                       "\" is not finite; the fork's values overflow");
  }
}

std::vector<at::Tensor> WeightGradients(const Model& model, const DeltaStack& stack, const Ragged& documents,
                                        const std::vector<uint8_t>& loss_mask,
                                        const std::vector<int32_t>& matrices, Selection selection,
                                        const JobControl& control) {
  for (const int32_t id : matrices) {
    if (id >= 0 && id < static_cast<int64_t>(model.tensors().size())) continue;
    throw Error("TARGET_UNKNOWN", "there is no matrix with id " + std::to_string(id));
  }
  if (OnDevice(model)) {
    return CudaAccelerator().weight_gradients(model, stack, documents, loss_mask, matrices, selection,
                                              control);
  }
  std::vector<at::Tensor> sums, gradients;
  TrainableView view;
  for (const int32_t id : matrices) {
    const MatrixInfo& info = model.tensors()[id];
    gradients.push_back(at::zeros({info.out, info.in}, model.options()));
    if (selection == Selection::kFisher) sums.push_back(at::zeros({info.out, info.in}, model.options()));
    // A dense change without values: nothing is added to the products, only its gradient is taken.
    PartView probe;
    probe.kind = DeltaKind::kDense;
    probe.matrix = id;
    probe.out = info.out;
    probe.in = info.in;
    probe.dvalues = gradients.back().mutable_data_ptr();
    view.views.push_back(probe);
  }
  // Squares are a document's own.
  const int64_t most = selection == Selection::kFisher ? 1 : kDefaultBatchTokens;
  ForDocumentBatches(documents, loss_mask, most, control,
                     [&](const Ragged& batch, const HeadRows& rows, const std::vector<double>& cotangents) {
                       BackwardPass(model, batch,
                                    std::vector<DocumentDeltas>(batch.rows(), DocumentDeltas{&stack, &view}),
                                    rows, 1.0, cotangents);
                       for (size_t i = 0; i < sums.size(); ++i) {
                         sums[i].addcmul_(gradients[i], gradients[i]);
                         gradients[i].zero_();
                       }
                     });
  std::vector<at::Tensor>& result = selection == Selection::kFisher ? sums : gradients;
  CheckWeightGradients(model, matrices, result);
  return result;
}

DeltaPtr ChooseSupport(const Model& model, const DeltaStack& stack, const Ragged& documents,
                       const std::vector<uint8_t>& loss_mask, const std::vector<int32_t>& matrices,
                       double density, Selection selection, const JobControl& control,
                       const WeightGradientFunction& gradients_of) {
  SupportSize(density, 1);  // a wrong one is refused before the work
  const std::vector<at::Tensor> gradients =
      gradients_of(model, stack, documents, loss_mask, matrices, selection, control);
  auto delta = std::make_shared<Delta>();
  for (size_t i = 0; i < matrices.size(); ++i) {
    const MatrixInfo& info = model.tensors()[matrices[i]];
    const std::vector<int64_t> chosen =
        LargestEntries(gradients[i], SupportSize(density, info.out * info.in));
    delta->parts.push_back(
        SparseFromIndices(matrices[i], info.out, info.in, chosen,
                          at::zeros({static_cast<int64_t>(chosen.size())}, model.options())));
  }
  return delta;
}

}  // namespace selfedit
