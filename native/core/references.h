// What rows are compared with: hidden states under another fork, read once where many rows share a text.
#pragma once
#include <vector>

#include "core/delta.h"
#include "core/model.h"

namespace selfedit {

// For one call: refers to its arguments. Many edits are compared with one model on the same few texts; such a
// text is read once and kept until its last row has asked, while no more than kMostKeptTokens are kept; other
// texts are read whenever they are asked for.
class References {
 public:
  static constexpr int64_t kMostKeptTokens = 8192;  // eight batches of the default size

  // row_reference: the fork that a row is compared with, -1 for none; empty: none for any row.
  References(const Model& model, const Ragged& rows, const std::vector<DeltaStack>& forks,
             const std::vector<int32_t>& row_reference);

  // Hidden states after the last norm, [tokens of the named rows, hidden]; undefined in rows without a
  // reference.
  at::Tensor Hidden(const std::vector<int64_t>& indices);
  int64_t tokens_read() const { return tokens_read_; }
  int64_t tokens_kept() const { return tokens_kept_; }

 private:
  const Model& model_;
  const Ragged& rows_;
  const std::vector<DeltaStack>& forks_;
  const std::vector<int32_t>& row_reference_;
  std::vector<int64_t> text_;     // a row each: which distinct text under which reference, -1 for none
  std::vector<int64_t> uses_;     // of a text: rows that have not asked yet
  std::vector<at::Tensor> kept_;  // of texts that several rows use
  int64_t tokens_read_ = 0, tokens_kept_ = 0;
};

}  // namespace selfedit
