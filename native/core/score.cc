#include "core/score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/references.h"
#include "core/transformer.h"

namespace selfedit {

std::vector<std::vector<int64_t>> PackRows(const Ragged& rows, const std::vector<int32_t>& group,
                                           int64_t max_tokens) {
  std::vector<int64_t> order(rows.rows());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return group[a] < group[b]; });
  std::vector<std::vector<int64_t>> batches;
  int64_t filled = 0;
  for (const int64_t row : order) {
    const int64_t length = rows.length(row);
    if (batches.empty() || filled + length > max_tokens) {
      batches.emplace_back();
      filled = 0;
    }
    batches.back().push_back(row);
    filled += length;
  }
  return batches;
}

void ForBatches(const Ragged& rows, const std::vector<int32_t>& group, int64_t max_tokens,
                const JobControl& control, const std::string& what,
                const std::function<void(const std::vector<int64_t>&)>& body) {
  std::vector<bool> done(rows.rows(), false);
  WithHalving(max_tokens, control, what, [&](int64_t most) {
    for (std::vector<int64_t>& batch : PackRows(rows, group, most)) {
      std::erase_if(batch, [&](int64_t row) { return done[row]; });
      if (batch.empty()) continue;
      control.Check();
      body(batch);
      for (const int64_t row : batch) done[row] = true;
    }
  });
}

Ragged GatherRows(const Ragged& rows, const std::vector<int64_t>& indices) {
  Ragged batch;
  for (const int64_t row : indices) batch.Append(rows.tokens.data() + rows.offsets[row], rows.length(row));
  return batch;
}

void CheckRowForks(const std::vector<int32_t>& row_fork, int64_t rows, size_t forks) {
  if (static_cast<int64_t>(row_fork.size()) != rows) {
    throw Error("INPUT_INVALID", "there are " + std::to_string(row_fork.size()) + " fork indices for " +
                                     std::to_string(rows) + " rows");
  }
  for (const int32_t fork : row_fork) {
    if (fork < 0 || static_cast<size_t>(fork) >= forks) {
      throw Error("INPUT_INVALID",
                  "fork index " + std::to_string(fork) + "; there are " + std::to_string(forks) + " forks");
    }
  }
}

void CheckTemperature(double temperature, const char* what) {
  const float narrow = static_cast<float>(temperature);  // logits are divided in float32
  if (!(narrow > 0) || !std::isfinite(narrow)) {
    throw Error("OPTION_INVALID", std::string("temperature is ") + std::to_string(temperature) + "; " + what +
                                      " needs a number above 0");
  }
}

namespace {

// Hidden states of a batch, and which row of it sees which deltas.
struct Pass {
  OverlayPlan plan;
  at::Tensor hidden;
};

Pass Run(const Model& model, const Ragged& batch, const std::vector<int64_t>& rows,
         const std::vector<DeltaStack>& forks, const std::vector<int32_t>& row_fork,
         const std::vector<std::shared_ptr<const Materialised>>& materialised) {
  std::vector<DocumentDeltas> deltas;
  for (const int64_t row : rows) {
    const int32_t fork = row_fork[row];
    deltas.push_back({&forks[fork], nullptr, materialised.empty() ? nullptr : materialised[fork].get()});
  }
  OverlayPlan plan = MakeOverlayPlan(model, batch.offsets, deltas);
  RaggedAttention attention(model.config(), batch.offsets);
  at::Tensor hidden =
      TransformerForward(model, TokenTensor(batch), PositionTensor(batch.offsets), plan, attention, nullptr);
  return {std::move(plan), std::move(hidden)};
}
}  // namespace

at::Tensor HiddenStates(const Model& model, const Ragged& batch, const DeltaStack& stack) {
  if (OnDevice(model)) return CudaAccelerator().hidden(model, batch, stack);
  std::vector<int64_t> rows(batch.rows());
  std::iota(rows.begin(), rows.end(), 0);
  return Run(model, batch, rows, {stack}, std::vector<int32_t>(batch.rows(), 0), {}).hidden;
}

double CheckFinite(double value, const char* what, int64_t row, int64_t position) {
  if (std::isfinite(value)) return value;
  throw Error("LOSS_NOT_FINITE", "row " + std::to_string(row) + ", position " + std::to_string(position) +
                                     ": the " + what + " is " + std::to_string(value) +
                                     "; the fork's values overflow");
}

std::vector<double> Score(const ScoreSpec& spec, const JobControl& control) {
  const Model& model = *spec.model;
  CheckRagged(spec.rows, model.config(), "row");
  CheckRowForks(spec.row_fork, spec.rows.rows(), spec.forks.size());
  CheckTemperature(spec.temperature, "score");
  if (OnDevice(model)) return CudaAccelerator().score(spec, control);
  std::vector<double> result(spec.rows.tokens.size(), std::numeric_limits<double>::quiet_NaN());
  const int64_t most = spec.max_batch_tokens > 0 ? spec.max_batch_tokens : kDefaultBatchTokens;
  double done = 0, step = 0;
  ForBatches(spec.rows, spec.row_fork, most, control, "score", [&](const std::vector<int64_t>& rows) {
    const Ragged batch = GatherRows(spec.rows, rows);
    const Pass pass = Run(model, batch, rows, spec.forks, spec.row_fork, spec.materialised);
    const std::vector<double> logprobs =
        HeadLogprobs(model, pass.plan, pass.hidden, NextTokenRows(batch), spec.temperature);
    size_t next = 0;
    for (const int64_t row : rows) {
      for (int64_t i = 1; i < spec.rows.length(row); ++i) {
        result[spec.rows.offsets[row] + i] = CheckFinite(logprobs[next++], "log-prob", row, i);
      }
    }
    done += static_cast<double>(batch.tokens.size());
    control.Report({done, static_cast<double>(spec.rows.tokens.size()), ++step, NAN});
  });
  return result;
}

std::vector<double> Divergence(const DivergenceSpec& spec, const JobControl& control) {
  const Model& model = *spec.model;
  CheckRagged(spec.rows, model.config(), "row");
  CheckRowForks(spec.row_fork, spec.rows.rows(), spec.forks.size());
  CheckRowForks(spec.row_reference, spec.rows.rows(), spec.forks.size());
  if (OnDevice(model)) return CudaAccelerator().divergence(spec, control);
  std::vector<double> result(spec.rows.tokens.size());
  const int64_t most = spec.max_batch_tokens > 0 ? spec.max_batch_tokens : kDefaultBatchTokens;
  double done = 0, step = 0;
  References references(model, spec.rows, spec.forks, spec.row_reference);
  ForBatches(spec.rows, spec.row_fork, most, control, "divergence", [&](const std::vector<int64_t>& rows) {
    const Ragged batch = GatherRows(spec.rows, rows);
    const Pass a = Run(model, batch, rows, spec.forks, spec.row_fork, {});
    std::vector<DocumentDeltas> others;
    for (const int64_t row : rows) others.push_back({&spec.forks[spec.row_reference[row]], nullptr});
    const OverlayPlan plan = MakeOverlayPlan(model, batch.offsets, others);
    std::vector<int64_t> all(batch.tokens.size());
    std::iota(all.begin(), all.end(), 0);
    const std::vector<double> kl =
        HeadDivergence(model, a.plan, a.hidden, plan, references.Hidden(rows), all);
    size_t next = 0;
    for (const int64_t row : rows) {
      for (int64_t i = 0; i < spec.rows.length(row); ++i) {
        result[spec.rows.offsets[row] + i] = CheckFinite(kl[next++], "divergence", row, i);
      }
    }
    done += static_cast<double>(batch.tokens.size());
    control.Report({done, static_cast<double>(spec.rows.tokens.size()), ++step, NAN});
  });
  return result;
}

}  // namespace selfedit
