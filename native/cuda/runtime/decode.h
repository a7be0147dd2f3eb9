// Decoding with a fixed number of row places: one step is one graph, which reads everything about its rows
// from device memory. The host keeps a copy of that memory, changes it between steps and looks at it every
// few steps.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "core/generate.h"
#include "cuda/runtime/prompt_reader.h"
#include "cuda/runtime/row_pass.h"

namespace selfedit::cuda {

// Finish codes of kernels.h.
enum RowState : int32_t {
  kRuns = 0,
  kStopped = 1,
  kLengthReached = 2,
  kContextFull = 3,
  kNotFinite = 4,
  kIdle = -1
};

// One place's numbers. Addresses of keys and values are set apart.
struct DecodeRow {
  int32_t last = 0, own_length = 0, finish = kIdle, prefix_length = 0, max_tokens = 1, top_k = 0, fork = -1;
  int64_t count = 0;
  float temperature = 1, top_p = 1;
  uint64_t key = 0;
};

class DecodeStep {
 public:
  // places: rows at once; capacity: most tokens that a row generates; positions: most of prompt and row
  // together.
  DecodeStep(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& forks,
             const Copies& copies, int64_t places, int64_t capacity, int64_t positions,
             const std::vector<int32_t>& stop_tokens);
  static int64_t PlaceBytes(const DeviceModel& model, int64_t capacity);

  int64_t places() const { return places_; }
  std::vector<DecodeRow>& rows() { return rows_; }
  // The prompt of a place, and the logits from which its first token is drawn. Keys and values of its
  // beginning stay where they are; those of a rest are copied before the row's own.
  void SetPrompt(int64_t place, const ReadPrompt& prompt);
  void Free(int64_t place);
  // Makes the device's copy that of rows().
  void Upload();
  // Draws a token for all that run, from the logits set: the end of the prefill.
  void SampleFirst();
  // One decode step of all that run. Waits for nothing.
  void Run();
  // Waits, and brings rows() and the generated tokens up to date.
  void Look();
  const int32_t* tokens(int64_t place) const;
  const float* logprobs(int64_t place) const;

 private:
  void SetAddresses(int64_t place, const at::Tensor& slab, int64_t offset);
  void Body();
  void Draw(int32_t appended);
  DecodeState State() const;
  DecodeShape Shape(int64_t layer) const;

  const DeviceModel& model_;
  int64_t places_, capacity_, positions_, splits_, stops_;
  std::vector<DecodeRow> rows_;
  Pass pass_;
  DeviceHead head_;
  ForkSegments forks_;
  at::Tensor slab_;                                        // [layers, 2, places, capacity, G d]
  at::Tensor pointers_host_, pointers_;                    // [layers, 4, places]
  at::Tensor ints_, floats_, keys_, count_, stop_tokens_;  // ints [7, places], floats [2, places]
  at::Tensor out_tokens_, out_logprobs_, tokens_host_, logprobs_host_;
  at::Tensor tokens_, positions_of_, logits_, token_, logprob_, scratch_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace selfedit::cuda
