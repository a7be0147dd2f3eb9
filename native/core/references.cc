#include "core/references.h"

#include <map>
#include <utility>

#include "core/score.h"
#include "core/transformer.h"

namespace selfedit {

References::References(const Model& model, const Ragged& rows, const std::vector<DeltaStack>& forks,
                       const std::vector<int32_t>& row_reference)
    : model_(model), rows_(rows), forks_(forks), row_reference_(row_reference) {
  std::map<std::pair<int32_t, std::vector<int32_t>>, int64_t> known;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    if (row_reference.empty() || row_reference[row] < 0) {
      text_.push_back(-1);
      continue;
    }
    const auto begin = rows.tokens.begin();
    std::vector<int32_t> tokens(begin + rows.offsets[row], begin + rows.offsets[row + 1]);
    const auto [place, fresh] =
        known.try_emplace({row_reference[row], std::move(tokens)}, static_cast<int64_t>(uses_.size()));
    if (fresh) uses_.push_back(0);
    ++uses_[place->second];
    text_.push_back(place->second);
  }
  kept_.resize(uses_.size());
}

at::Tensor References::Hidden(const std::vector<int64_t>& indices) {
  int64_t total = 0;
  std::map<int64_t, at::Tensor> states;  // by text
  std::vector<int64_t> unread;
  for (const int64_t row : indices) {
    total += rows_.length(row);
    const int64_t text = text_[row];
    if (text < 0 || !states.try_emplace(text, kept_[text]).second) continue;
    if (!kept_[text].defined()) unread.push_back(row);
  }
  if (!unread.empty()) {
    const Ragged batch = GatherRows(rows_, unread);
    std::vector<DocumentDeltas> deltas;
    for (const int64_t row : unread) deltas.push_back({&forks_[row_reference_[row]], nullptr});
    const OverlayPlan plan = MakeOverlayPlan(model_, batch.offsets, deltas);
    RaggedAttention attention(model_.config(), batch.offsets);
    const at::Tensor hidden = TransformerForward(model_, TokenTensor(batch), PositionTensor(batch.offsets),
                                                 plan, attention, nullptr);
    tokens_read_ += static_cast<int64_t>(batch.tokens.size());
    for (size_t i = 0; i < unread.size(); ++i) {
      const int64_t text = text_[unread[i]];
      states[text] = hidden.narrow(0, batch.offsets[i], batch.length(static_cast<int64_t>(i)));
      // A copy of its own: a view would keep the whole batch.
      if (uses_[text] > 1 && tokens_kept_ + batch.length(static_cast<int64_t>(i)) <= kMostKeptTokens) {
        kept_[text] = states[text].clone();
        tokens_kept_ += batch.length(static_cast<int64_t>(i));
      }
    }
  }
  const at::Tensor result = at::empty({total, model_.config().hidden_size}, model_.options());
  int64_t begin = 0;
  for (const int64_t row : indices) {
    const int64_t length = rows_.length(row);
    const int64_t text = text_[row];
    if (text >= 0) {
      result.narrow(0, begin, length).copy_(states[text]);
      // After a failed attempt rows ask again: their texts are then read again.
      if (--uses_[text] <= 0 && kept_[text].defined()) {
        kept_[text].reset();
        tokens_kept_ -= length;
      }
    }
    begin += length;
  }
  return result;
}

}  // namespace selfedit
