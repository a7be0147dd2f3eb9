// Forward passes over ragged batches of rows under forks, in buffers of fixed capacity that each batch is
// uploaded into: captured at the first use and replayed for every batch.
#pragma once
#include <memory>
#include <vector>

#include "core/score.h"
#include "cuda/runtime/backend.h"
#include "cuda/runtime/frozen.h"
#include "cuda/runtime/head.h"
#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

// Largest sizes over all batches of a call.
struct BatchCapacity {
  int64_t tokens = 16, rows = 1, longest = 1;
  void Add(const Ragged& batch);
};

class RowPass {
 public:
  // lowest: as in Pass.
  RowPass(const DeviceModel& model, const BatchCapacity& capacity, std::optional<int64_t> lowest);

  // Tokens, positions and documents of a batch; target: next token, or -1, of every token; first: position of
  // each row's first token (empty: 0).
  void Load(const Ragged& batch, const std::vector<int32_t>& target, const std::vector<int32_t>& first = {});
  RowBatch rows() const;
  AttentionShape shape() const;
  // `keep` (may be null) sees every layer's keys and values.
  void Forward(const Overlays& overlays, const AttentionFunction& keep = nullptr);
  Pass& pass() { return pass_; }
  const int32_t* target() const { return target_.const_data_ptr<int32_t>(); }
  int64_t tokens() const { return capacity_.tokens; }

 private:
  const DeviceModel& model_;
  BatchCapacity capacity_;
  Pass pass_;
  at::Tensor tokens_, positions_, document_offsets_, target_;
};

// Segments of neighbouring rows of one fork.
class ForkSegments {
 public:
  ForkSegments(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& forks,
               const BatchCapacity& capacity, const Copies& copies = {});
  // fork of each row of the batch (-1: none).
  void Load(const std::vector<int32_t>& offsets, const std::vector<int32_t>& fork);
  Overlays overlays() { return stacks_.For(tokens_); }

 private:
  const std::vector<DeltaStack>& forks_;
  const Copies copies_;
  int64_t segments_, tokens_;
  FrozenStacks stacks_;
  at::Tensor offsets_;
};

// Every token's next one in its row, -1 at each row's last.
std::vector<int32_t> NextTokens(const Ragged& batch);

}  // namespace selfedit::cuda
