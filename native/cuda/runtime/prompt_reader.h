// Reading prompts on a device: keys and values of each, and the logits behind it. A prefix that prompts of
// one fork share is read once; what comes behind it attends to it where it lies.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <vector>

#include "core/generate.h"
#include "cuda/runtime/row_pass.h"

namespace selfedit::cuda {

// Keys and values of a piece of text: its own from token `offset` on of slab [layers, 2, tokens, G d].
struct KeysValues {
  at::Tensor slab;
  int64_t offset = 0, length = 0;
};
struct ReadPrompt {
  KeysValues begin;   // the whole prompt, or the prefix that it shares
  KeysValues rest;    // what comes behind a shared prefix; length 0 without one
  at::Tensor logits;  // of the last position, [V] float
};

// First tokens of a prompt that are read once for all that begin with them; 0: none.
inline int32_t PrefixOf(const GenerateSpec& spec, int64_t prompt) {
  return spec.shared_prefix.empty() ? 0 : spec.shared_prefix[prompt];
}

class PromptReader {
 public:
  // capacity: tokens and prompts of one call of Read.
  PromptReader(const GenerateSpec& spec, const DeviceModel& model, FrozenDeltas& deltas,
               const BatchCapacity& capacity);
  const BatchCapacity& capacity() const { return capacity_; }
  // One for each of these, all within the capacity. Waits for nothing.
  std::vector<ReadPrompt> Read(const std::vector<int32_t>& prompts);

 private:
  // Texts from their first token on; keys and values of all in one slab.
  std::vector<KeysValues> ReadTexts(const Ragged& texts, const std::vector<int32_t>& fork);
  // Texts behind others.
  std::vector<KeysValues> ReadRests(const Ragged& rests, const std::vector<int32_t>& fork,
                                    const std::vector<KeysValues>& begins);
  // Of the last token of each text that was read last, [texts, V].
  at::Tensor Logits(const Ragged& texts, const std::vector<int32_t>& fork);
  at::Tensor MakeSlab(int64_t tokens) const;

  const GenerateSpec& spec_;
  const DeviceModel& model_;
  BatchCapacity capacity_;
  RowPass pass_;
  ForkSegments forks_;
  DeviceHead head_;
  ForkSegments head_forks_;  // of the rows whose logits are wanted: one a prompt
  using PrefixKey = std::pair<int32_t, std::vector<int32_t>>;  // fork and tokens
  std::map<PrefixKey, KeysValues> prefixes_;                   // until the call ends
  at::Tensor addresses_, lengths_;                             // of every token that is a rest's
};

}  // namespace selfedit::cuda
