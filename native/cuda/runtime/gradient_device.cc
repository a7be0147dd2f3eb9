// Gradients of deltas' values and of whole weights on a device: the training's forward and backward with a
// loss that is known before.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/host_delta.h"
#include "core/memory.h"
#include "cuda/runtime/calls.h"
#include "cuda/runtime/row_pass.h"
#include "cuda/runtime/slot_deltas.h"

namespace selfedit::cuda {
namespace {

// Log-probs of batches, and the gradients of what their sum, weighted by `cotangents`, trains.
class BackwardPass {
 public:
  // stacks: a slot each, below what is trained.
  BackwardPass(const DeviceModel& model, const BatchCapacity& capacity, const std::vector<DeltaStack>& stacks,
               const std::vector<TrainedPart>& parts, SlotDeltas::Keep keep)
      : stacks_(stacks),
        copies_(model),
        frozen_(model, copies_, stacks_, static_cast<int64_t>(stacks.size()), {capacity.tokens}),
        deltas_(model, parts, static_cast<int64_t>(stacks.size()), capacity.tokens, keep, &frozen_.vectors()),
        pass_(model, capacity, deltas_.lowest()),
        head_(model, DeviceHead::DefaultChunk(model, capacity.tokens), true),
        offsets_(at::zeros({static_cast<int64_t>(stacks.size()) + 1}, model.options(at::kInt))) {
    for (at::Tensor* t : {&logprob_, &lse_, &g_})
      *t = at::zeros({capacity.tokens}, model.options(at::kFloat));
    frozen_.SetSegments(offsets_.const_data_ptr<int32_t>());
    deltas_.SetSegments(offsets_.const_data_ptr<int32_t>());
    for (size_t s = 0; s < stacks_.size(); ++s) frozen_.Set(static_cast<int64_t>(s), &stacks_[s]);
    frozen_.Upload();
  }

  SlotDeltas& deltas() { return deltas_; }
  const at::Tensor& logprob() const { return logprob_; }

  // offsets [slots + 1]: which rows of the batch are whose. Waits for nothing.
  void Run(const Ragged& batch, const std::vector<int32_t>& offsets, const HeadRows& rows, double temperature,
           const std::vector<double>& cotangents) {
    std::vector<int32_t> target(batch.tokens.size(), -1);
    at::Tensor g = at::zeros(g_.sizes(), at::kFloat);
    for (int64_t i = 0; i < rows.size(); ++i) {
      target[rows.row[i]] = rows.target[i];
      g.mutable_data_ptr<float>()[rows.row[i]] = static_cast<float>(cotangents[i]);
    }
    pass_.Load(batch, target);
    UploadInto(g, g_);
    at::Tensor segments = at::empty(offsets_.sizes(), at::kInt);
    std::copy(offsets.begin(), offsets.end(), segments.mutable_data_ptr<int32_t>());
    UploadInto(segments, offsets_);
    const int64_t T = pass_.tokens();
    Overlays overlays = frozen_.For(T);
    overlays.push_back(&deltas_);
    pass_.Forward(overlays);
    const at::Tensor& hidden = pass_.pass().hidden();
    const float narrow = static_cast<float>(temperature);
    float* lse = lse_.mutable_data_ptr<float>();
    head_.Logprobs(hidden, overlays, pass_.target(), T, narrow, logprob_.mutable_data_ptr<float>(), lse,
                   nullptr);
    head_.LogprobsBackward(hidden, overlays, pass_.target(), lse, g_.const_data_ptr<float>(), nullptr,
                           nullptr, T, narrow, pass_.pass().dhidden());
    pass_.pass().Backward(pass_.rows(), overlays, pass_.shape());
  }

 private:
  const std::vector<DeltaStack> stacks_;
  FrozenDeltas copies_;
  FrozenStacks frozen_;
  SlotDeltas deltas_;
  RowPass pass_;
  DeviceHead head_;
  at::Tensor offsets_, logprob_, lse_, g_;
};

// Forks [first, last) of a call, whose gradients fit into the memory together.
class ForkGroup {
 public:
  ForkGroup(const GradientSpec& spec, const DeviceModel& model, int64_t first, int64_t last)
      : spec_(spec), model_(model), first_(first) {
    for (int64_t f = first; f < last; ++f) {
      if (spec.level[f] < 0) {
        // Without rows: it is there to be compared with.
        rest_.push_back(spec.forks[f]);
        trained_.push_back(nullptr);
        continue;
      }
      const AppliedDelta& applied = spec.forks[f][spec.level[f]];
      // Changes add up, so the differentiated delta may lie on top of the others.
      rest_.push_back(spec.forks[f]);
      rest_.back().erase(rest_.back().begin() + spec.level[f]);
      auto scaled = std::make_shared<Delta>(*HostDelta(applied.delta));
      for (DeltaPart& part : scaled->parts) part.scale *= applied.scale;
      trained_.push_back(scaled);
      for (const TrainedPart& part : PartsOf(*scaled)) parts_.push_back(part);
    }
    parts_ = Widest(std::move(parts_));
    for (int64_t r = 0; r < spec.rows.rows(); ++r) {
      if (spec.row_fork[r] >= first && spec.row_fork[r] < last) rows_.push_back(r);
    }
  }

  // Gradients of the group's deltas; log-probs of its rows. `done`: tokens so far.
  std::vector<DeltaPtr> Run(int64_t most, const JobControl& control, std::vector<double>* logprobs,
                            double* done, double* step) {
    if (parts_.empty()) return std::vector<DeltaPtr>(trained_.size());
    const Ragged all = GatherRows(spec_.rows, rows_);
    std::vector<int32_t> fork;
    for (const int64_t row : rows_) fork.push_back(static_cast<int32_t>(spec_.row_fork[row] - first_));
    const auto batches = PackRows(all, fork, most);
    BatchCapacity capacity;
    for (const auto& indices : batches) capacity.Add(GatherRows(all, indices));
    BackwardPass pass(model_, capacity, rest_, parts_, SlotDeltas::Keep::kValues);
    pass.deltas().SetAccumulate(true);
    for (size_t s = 0; s < trained_.size(); ++s) {
      if (trained_[s]) pass.deltas().Start(static_cast<int64_t>(s), *trained_[s], {});
    }
    pass.deltas().Upload();
    Readback readback[2];
    const auto finish = [&](size_t b) {
      const at::Tensor host = readback[b % 2].Wait();
      CheckDevice();
      int64_t token = 0;
      for (const int64_t row : batches[b]) {
        for (int64_t i = 0; i < all.length(row); ++i, ++token) {
          if (i > 0)
            (*logprobs)[spec_.rows.offsets[rows_[row]] + i] = host.const_data_ptr<float>()[token - 1];
        }
      }
      *done += static_cast<double>(token);
      control.Report({*done, static_cast<double>(spec_.rows.tokens.size()), ++*step, NAN});
    };
    for (size_t b = 0; b < batches.size(); ++b) {
      control.Check();
      const Ragged batch = GatherRows(all, batches[b]);
      std::vector<double> cotangents;
      std::vector<int32_t> offsets(trained_.size() + 1, 0);
      for (const int64_t row : batches[b]) {
        offsets[fork[row] + 1] += static_cast<int32_t>(all.length(row));
        const int64_t begin = spec_.rows.offsets[rows_[row]];
        for (int64_t i = 1; i < all.length(row); ++i) cotangents.push_back(spec_.cotangents[begin + i]);
      }
      for (size_t s = 0; s < trained_.size(); ++s) offsets[s + 1] += offsets[s];
      pass.Run(batch, offsets, NextTokenRows(batch), spec_.temperature, cotangents);
      readback[b % 2].Start(pass.logprob());
      if (b > 0) finish(b - 1);
    }
    if (!batches.empty()) finish(batches.size() - 1);
    std::vector<DeltaPtr> gradients;
    for (size_t s = 0; s < trained_.size(); ++s) {
      const DeltaPtr& like = trained_[s];
      gradients.push_back(like ? HostDelta(pass.deltas().TakeGradient(static_cast<int64_t>(s), *like))
                               : nullptr);
    }
    CheckDevice();
    return gradients;
  }

  const std::vector<TrainedPart>& parts() const { return parts_; }

 private:
  const GradientSpec& spec_;
  const DeviceModel& model_;
  int64_t first_;
  std::vector<DeltaStack> rest_;
  std::vector<DeltaPtr> trained_;
  std::vector<TrainedPart> parts_;
  std::vector<int64_t> rows_;
};

}  // namespace

GradientResult Gradient(const GradientSpec& spec, const DeviceModel& model, const JobControl& control) {
  const DeviceScope scope(model.device());
  const int64_t forks = static_cast<int64_t>(spec.forks.size());
  // Forks whose values and gradients take half of the memory at most.
  int64_t each = 1;
  for (int64_t f = 0; f < forks; ++f) {
    const ForkGroup alone(spec, model, f, f + 1);
    each = std::max(each, SlotDeltas::SlotBytes(model, alone.parts(), SlotDeltas::Keep::kValues));
  }
  const int64_t together = std::max<int64_t>(1, Usable(FreeBytes(model.device())) / 2 / each);
  GradientResult result;
  const int64_t most = spec.max_batch_tokens > 0 ? spec.max_batch_tokens : kDefaultBatchTokens;
  WithHalving(most, control, "gradient", [&](int64_t tokens) {
    // Gradients add up over batches: an attempt begins at zero.
    result.gradients.clear();
    result.logprobs.assign(spec.rows.tokens.size(), std::numeric_limits<double>::quiet_NaN());
    result.divergence = result.logprobs;
    double done = 0, step = 0;
    for (int64_t first = 0; first < forks; first += together) {
      ForkGroup group(spec, model, first, std::min(forks, first + together));
      for (DeltaPtr& gradient : group.Run(tokens, control, &result.logprobs, &done, &step))
        result.gradients.push_back(std::move(gradient));
    }
  });
  for (const DeltaPtr& gradient : result.gradients) {
    if (!gradient) continue;
    for (const DeltaPart& part : gradient->parts) {
      for (const at::Tensor& t : part.trainable()) {
        if (at::isfinite(t).all().item<bool>()) continue;
        throw Error("LOSS_NOT_FINITE", "the gradient is not finite; the fork's values overflow");
      }
    }
  }
  return result;
}

std::vector<at::Tensor> WeightGradients(const DeviceModel& model, const DeltaStack& stack,
                                        const Ragged& documents, const std::vector<uint8_t>& loss_mask,
                                        const std::vector<int32_t>& matrices, Selection selection,
                                        const JobControl& control) {
  const DeviceScope scope(model.device());
  std::vector<TrainedPart> parts;
  Delta like;
  for (const int32_t id : matrices) {
    const MatrixInfo& info = model.host().tensors().at(id);
    parts.push_back({id, DeltaKind::kDense, info.out * info.in});
    like.parts.push_back(
        DeltaPart::Dense(id, at::empty({info.out, info.in}, at::TensorOptions().device(at::kMeta)), 1));
  }
  // Squares are a document's own.
  const bool fisher = selection == Selection::kFisher;
  const int64_t most = fisher ? 1 : kDefaultBatchTokens;
  BatchCapacity capacity;
  ForDocumentBatches(
      documents, loss_mask, most, control,
      [&](const Ragged& batch, const HeadRows&, const std::vector<double>&) { capacity.Add(batch); });
  BackwardPass pass(model, capacity, {stack}, parts, SlotDeltas::Keep::kGradients);
  pass.deltas().SetAccumulate(!fisher);
  at::Tensor squares;
  if (fisher) squares = at::zeros_like(pass.deltas().gradients());
  ForDocumentBatches(documents, loss_mask, most, control,
                     [&](const Ragged& batch, const HeadRows& rows, const std::vector<double>& cotangents) {
                       pass.Run(batch, {0, batch.offsets.back()}, rows, 1.0, cotangents);
                       if (fisher) squares.addcmul_(pass.deltas().gradients(), pass.deltas().gradients());
                     });
  const DeltaPtr sums =
      fisher ? pass.deltas().Unpack(squares.select(0, 0), like) : pass.deltas().TakeGradient(0, like);
  std::vector<at::Tensor> result;
  for (const DeltaPart& part : HostDelta(sums)->parts) result.push_back(part.values);
  CheckDevice();
  CheckWeightGradients(model.host(), matrices, result);
  return result;
}

}  // namespace selfedit::cuda
