#include "cuda/runtime/row_pass.h"

#include <algorithm>

namespace selfedit::cuda {
namespace {
// The tail of a buffer beyond the batch is filled.
at::Tensor Filled(const std::vector<int32_t>& values, int64_t size, int32_t fill) {
  at::Tensor t = at::full({size}, fill, at::kInt);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int32_t>());
  return t;
}
}  // namespace

void BatchCapacity::Add(const Ragged& batch) {
  tokens = std::max<int64_t>(tokens, (static_cast<int64_t>(batch.tokens.size()) + 15) / 16 * 16);
  rows = std::max(rows, batch.rows());
  for (int64_t r = 0; r < batch.rows(); ++r) longest = std::max(longest, batch.length(r));
}

RowPass::RowPass(const DeviceModel& model, const BatchCapacity& capacity, std::optional<int64_t> lowest)
    : model_(model), capacity_(capacity), pass_(model, capacity.tokens, capacity.longest, lowest) {
  const auto ints = model.options(at::kInt);
  tokens_ = at::zeros({capacity.tokens}, ints);
  positions_ = at::zeros({capacity.tokens}, ints);
  document_offsets_ = at::zeros({capacity.rows + 1}, ints);
  target_ = at::full({capacity.tokens}, -1, ints);
}

void RowPass::Load(const Ragged& batch, const std::vector<int32_t>& target,
                   const std::vector<int32_t>& first) {
  std::vector<int32_t> positions;
  for (int64_t r = 0; r < batch.rows(); ++r) {
    const int32_t begin = first.empty() ? 0 : first[r];
    for (int64_t i = 0; i < batch.length(r); ++i) positions.push_back(begin + static_cast<int32_t>(i));
  }
  UploadInto(Filled(batch.tokens, capacity_.tokens, 0), tokens_);
  UploadInto(Filled(positions, capacity_.tokens, 0), positions_);
  UploadInto(Filled(batch.offsets, capacity_.rows + 1, batch.offsets.back()), document_offsets_);
  UploadInto(Filled(target, capacity_.tokens, -1), target_);
}

RowBatch RowPass::rows() const {
  return {tokens_.const_data_ptr<int32_t>(), positions_.const_data_ptr<int32_t>(), capacity_.tokens};
}

AttentionShape RowPass::shape() const {
  return pass_.Shape(document_offsets_.const_data_ptr<int32_t>(), capacity_.rows, capacity_.tokens);
}

void RowPass::Forward(const Overlays& overlays, const AttentionFunction& keep) {
  const AttentionShape shape = this->shape();
  pass_.Forward(rows(), overlays, [&](const LayerAttention& a) {
    pass_.Attend(shape, a);
    if (keep) keep(a);
  });
}

ForkSegments::ForkSegments(const DeviceModel& model, FrozenDeltas& deltas,
                           const std::vector<DeltaStack>& forks, const BatchCapacity& capacity,
                           const Copies& copies)
    : forks_(forks),
      copies_(copies),
      segments_(capacity.rows),
      tokens_(capacity.tokens),
      stacks_(model, deltas, forks, capacity.rows, {capacity.tokens}, copies),
      offsets_(at::zeros({capacity.rows + 1}, model.options(at::kInt))) {
  stacks_.SetSegments(offsets_.const_data_ptr<int32_t>());
}

void ForkSegments::Load(const std::vector<int32_t>& offsets, const std::vector<int32_t>& fork) {
  std::vector<int32_t> ends{0};
  for (size_t r = 0; r < fork.size(); ++r) {
    if (r > 0 && fork[r] == fork[r - 1]) {
      ends.back() = offsets[r + 1];
      continue;
    }
    stacks_.Set(static_cast<int64_t>(ends.size()) - 1, fork[r] < 0 ? nullptr : &forks_[fork[r]],
                CopyOf(copies_, fork[r]));
    ends.push_back(offsets[r + 1]);
  }
  for (int64_t s = static_cast<int64_t>(ends.size()) - 1; s < segments_; ++s) stacks_.Set(s, nullptr);
  UploadInto(Filled(ends, segments_ + 1, ends.back()), offsets_);
  stacks_.Upload();
}

std::vector<int32_t> NextTokens(const Ragged& batch) {
  std::vector<int32_t> next(batch.tokens.size(), -1);
  for (int64_t r = 0; r < batch.rows(); ++r) {
    for (int32_t i = batch.offsets[r]; i + 1 < batch.offsets[r + 1]; ++i) next[i] = batch.tokens[i + 1];
  }
  return next;
}

}  // namespace selfedit::cuda
