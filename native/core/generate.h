// Sampling from many forks at once: prompts are read once per (fork, prompt), rows decode together, finished
// rows are replaced from the queue.
#pragma once
#include <string>
#include <vector>

#include "core/delta.h"
#include "core/materialised.h"
#include "core/model.h"

namespace selfedit {

struct GenerateSpec {
  std::shared_ptr<Model> model;
  Ragged prompts;
  std::vector<DeltaStack> forks;
  std::vector<int32_t> prompt_fork;
  // A prompt each: how many of its first tokens are read once for all prompts of its fork that begin with the
  // same ones; empty: 0 for all. Less than the prompt's length.
  std::vector<int32_t> shared_prefix;
  // A fork each: copied weights that exist already, or null; empty: none. What kMaterialised and kAuto (where
  // it pays for a row's own length) lack is made for as long as such rows run; kOverlay uses none.
  std::vector<std::shared_ptr<const Materialised>> materialised;
  Application application = Application::kAuto;
  // One entry a row.
  std::vector<int32_t> row_prompt, max_tokens, top_k;
  std::vector<float> temperature, top_p;
  std::vector<uint64_t> keys;
  std::vector<int32_t> stop_tokens;
  std::vector<std::string> stop_strings;  // need Model::SetTokenBytes
  int64_t max_rows = 0;  // 0: kDefaultRows, fewer when their keys and values exceed kCacheBytes
};
constexpr int64_t kDefaultRows = 64;
constexpr int64_t kCacheBytes = int64_t{4} << 30;

enum class Finish : uint8_t { kLength = 0, kStopToken = 1, kStopString = 2, kContext = 3 };

struct GenerateResult {
  std::vector<std::vector<int32_t>> tokens;  // a row each; the token that ended a row is part of it
  std::vector<std::vector<float>>
      logprobs;  // of the temperature-scaled distribution (temperature 1 when greedy)
  std::vector<Finish> finish;
};

// Throws what is wrong with a call.
void CheckGenerate(const GenerateSpec& spec);

GenerateResult Generate(const GenerateSpec& spec, const JobControl& control);

}  // namespace selfedit
