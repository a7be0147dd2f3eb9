// Prompts of a generate call, read into keys and values.
#pragma once
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/generate.h"
#include "core/kv_cache.h"
#include "core/overlay.h"

namespace selfedit {

struct ReadPrompt {
  Slab slab;
  at::Tensor logits;  // of the last position, [vocab]
};

// Prefixes that several prompts of a fork share are read once and kept as long as the reader.
template <typename T>
class PromptReader {
 public:
  explicit PromptReader(const GenerateSpec& spec) : spec_(spec), model_(*spec.model) {}
  // Reads prompts `chosen` of the call, all in one or two passes, prompts of one fork next to each other.
  // When memory ends on the way, nothing is kept of it that matters: they can be read again.
  void Read(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into);

 private:
  struct Pass {
    OverlayPlan plan;
    at::Tensor hidden;
  };

  int32_t PrefixOf(int64_t p) const { return spec_.shared_prefix.empty() ? 0 : spec_.shared_prefix[p]; }
  void ReadWhole(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into);
  void ReadRests(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into);
  Pass Forward(const Ragged& batch, const std::vector<int32_t>& forks, const at::Tensor& positions,
               Attention& attention);
  void KeepLogits(const Ragged& batch, const Pass& pass, const std::vector<ReadPrompt*>& into);

  const GenerateSpec& spec_;
  const Model& model_;
  using PrefixKey = std::pair<int32_t, std::vector<int32_t>>;  // fork and tokens
  std::map<PrefixKey, Slab> prefixes_;
};

}  // namespace selfedit
