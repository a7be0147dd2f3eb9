#include <algorithm>
#include <cmath>
#include <limits>

#include "core/memory.h"
#include "cuda/runtime/calls.h"
#include "cuda/runtime/row_pass.h"

namespace selfedit::cuda {
namespace {

// One launch of a batch costs about 10 ms of host time outside of a graph, and inside of one a few
// microseconds a kernel: batches are large.
constexpr int64_t kBatchTokens = 8192;

struct Packed {
  std::vector<std::vector<int64_t>> rows;  // of each batch, as indices into the call's
  std::vector<Ragged> batches;
  BatchCapacity capacity;
};

// The rows that are not done yet.
Packed Pack(const Ragged& rows, const std::vector<int32_t>& fork, const std::vector<bool>& done,
            int64_t most) {
  Packed packed;
  for (std::vector<int64_t>& indices : PackRows(rows, fork, most)) {
    std::erase_if(indices, [&](int64_t row) { return done[row]; });
    if (indices.empty()) continue;
    packed.batches.push_back(GatherRows(rows, indices));
    packed.capacity.Add(packed.batches.back());
    packed.rows.push_back(std::move(indices));
  }
  return packed;
}

// Tokens of a batch: what was asked for, else what fits.
int64_t BatchTokens(const DeviceModel& model, int64_t asked) {
  if (asked > 0) return asked;
  const int64_t token = Pass::Bytes(model, 1, 0) + model.config().hidden_size * model.type_bytes();
  const int64_t left = Usable(FreeBytes(model.device())) -
                       2 * DeviceHead::Bytes(model, DeviceHead::DefaultChunk(model, kBatchTokens));
  return std::clamp<int64_t>(left / token, 1, kBatchTokens);
}

std::vector<int32_t> Of(const std::vector<int32_t>& all, const std::vector<int64_t>& rows) {
  std::vector<int32_t> some;
  for (const int64_t row : rows) some.push_back(all[row]);
  return some;
}

// How far a call has come.
struct Rows {
  explicit Rows(const Ragged& rows)
      : done(rows.rows(), false), total(static_cast<double>(rows.tokens.size())) {}
  std::vector<bool> done;
  double total, tokens = 0, batches = 0;
};

// Runs all batches: load, one graph, and the numbers of each token while the next batch is computed.
template <typename Load, typename Body, typename Take>
void RunBatches(const Packed& packed, const at::Tensor& numbers, const JobControl& control, Rows* rows,
                Load&& load, Body&& body, Take&& take) {
  Readback readback[2];
  Graph graph;
  const auto finish = [&](size_t b) {
    const at::Tensor host = readback[b % 2].Wait();
    CheckDevice();
    take(b, host.const_data_ptr<float>());
    for (const int64_t row : packed.rows[b]) rows->done[row] = true;
    rows->tokens += static_cast<double>(packed.batches[b].tokens.size());
    control.Report({rows->tokens, rows->total, ++rows->batches, NAN});
  };
  for (size_t b = 0; b < packed.batches.size(); ++b) {
    control.Check();
    load(b);
    // The first one starts up what a capture must not.
    if (b == 0) {
      body();
    } else {
      if (b == 1) graph.Capture(body);
      graph.Replay();
    }
    readback[b % 2].Start(numbers);
    if (b > 0) finish(b - 1);
  }
  if (!packed.batches.empty()) finish(packed.batches.size() - 1);
}

}  // namespace

std::vector<double> Score(const ScoreSpec& spec, const DeviceModel& model, const JobControl& control) {
  const DeviceScope scope(model.device());
  std::vector<double> result(spec.rows.tokens.size(), std::numeric_limits<double>::quiet_NaN());
  Rows rows(spec.rows);
  WithHalving(BatchTokens(model, spec.max_batch_tokens), control, "score", [&](int64_t most) {
    const Packed packed = Pack(spec.rows, spec.row_fork, rows.done, most);
    RowPass pass(model, packed.capacity, std::nullopt);
    FrozenDeltas deltas(model);
    ForkSegments forks(model, deltas, spec.forks, packed.capacity, spec.materialised);
    const DeviceHead head(model, DeviceHead::DefaultChunk(model, pass.tokens()), false);
    const at::Tensor logprob = at::zeros({pass.tokens()}, model.options(at::kFloat));
    RunBatches(
        packed, logprob, control, &rows,
        [&](size_t b) {
          pass.Load(packed.batches[b], NextTokens(packed.batches[b]));
          forks.Load(packed.batches[b].offsets, Of(spec.row_fork, packed.rows[b]));
        },
        [&] {
          pass.Forward(forks.overlays());
          head.Logprobs(pass.pass().hidden(), forks.overlays(), pass.target(), pass.tokens(),
                        static_cast<float>(spec.temperature), logprob.mutable_data_ptr<float>(), nullptr,
                        nullptr);
        },
        [&](size_t b, const float* numbers) {
          int64_t token = 0;
          for (const int64_t row : packed.rows[b]) {
            for (int64_t i = 0; i < spec.rows.length(row); ++i, ++token) {
              if (i > 0)
                result[spec.rows.offsets[row] + i] = CheckFinite(numbers[token - 1], "log-prob", row, i);
            }
          }
        });
  });
  return result;
}

std::vector<double> Divergence(const DivergenceSpec& spec, const DeviceModel& model,
                               const JobControl& control) {
  const DeviceScope scope(model.device());
  std::vector<double> result(spec.rows.tokens.size());
  Rows rows(spec.rows);
  WithHalving(BatchTokens(model, spec.max_batch_tokens), control, "divergence", [&](int64_t most) {
    const Packed packed = Pack(spec.rows, spec.row_fork, rows.done, most);
    RowPass pass(model, packed.capacity, std::nullopt);
    FrozenDeltas deltas(model);
    ForkSegments forks(model, deltas, spec.forks, packed.capacity);
    ForkSegments references(model, deltas, spec.forks, packed.capacity);
    const DeviceHead head(model, DeviceHead::DefaultChunk(model, pass.tokens()), false);
    const at::Tensor kl = at::zeros({pass.tokens()}, model.options(at::kFloat));
    const at::Tensor first = at::zeros({pass.tokens(), model.config().hidden_size}, model.options());
    RunBatches(
        packed, kl, control, &rows,
        [&](size_t b) {
          pass.Load(packed.batches[b], NextTokens(packed.batches[b]));
          forks.Load(packed.batches[b].offsets, Of(spec.row_fork, packed.rows[b]));
          references.Load(packed.batches[b].offsets, Of(spec.row_reference, packed.rows[b]));
        },
        [&] {
          pass.Forward(forks.overlays());
          Convert(pass.pass().hidden(), first);
          pass.Forward(references.overlays());
          head.Divergence(first, forks.overlays(), pass.pass().hidden(), references.overlays(), pass.tokens(),
                          kl.mutable_data_ptr<float>());
        },
        [&](size_t b, const float* numbers) {
          int64_t token = 0;
          for (const int64_t row : packed.rows[b]) {
            for (int64_t i = 0; i < spec.rows.length(row); ++i, ++token) {
              result[spec.rows.offsets[row] + i] = CheckFinite(numbers[token], "divergence", row, i);
            }
          }
        });
  });
  return result;
}

at::Tensor Hidden(const DeviceModel& model, const Ragged& batch, const DeltaStack& stack) {
  const DeviceScope scope(model.device());
  BatchCapacity capacity;
  capacity.Add(batch);
  RowPass pass(model, capacity, std::nullopt);
  FrozenDeltas deltas(model);
  const std::vector<DeltaStack> stacks{stack};
  ForkSegments forks(model, deltas, stacks, capacity);
  pass.Load(batch, NextTokens(batch));
  forks.Load(batch.offsets, std::vector<int32_t>(batch.rows(), 0));
  pass.Forward(forks.overlays());
  Readback readback;
  readback.Start(pass.pass().hidden());
  const at::Tensor host = readback.Wait();
  CheckDevice();
  return host.narrow(0, 0, batch.offsets.back()).to(at::kFloat);
}

}  // namespace selfedit::cuda
