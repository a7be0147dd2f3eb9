// What a generate call refuses before any work.
#include <cmath>

#include "core/generate.h"
#include "core/score.h"

namespace selfedit {

void CheckGenerate(const GenerateSpec& spec) {
  const Model& model = *spec.model;
  CheckRagged(spec.prompts, model.config(), "prompt");
  CheckRowForks(spec.prompt_fork, spec.prompts.rows(), spec.forks.size());
  const size_t rows = spec.row_prompt.size();
  if (spec.max_tokens.size() != rows || spec.top_k.size() != rows || spec.temperature.size() != rows ||
      spec.top_p.size() != rows || spec.keys.size() != rows) {
    throw Error("INPUT_INVALID", "every row needs maxTokens, temperature, topP, topK and a key");
  }
  if (!spec.shared_prefix.empty() && static_cast<int64_t>(spec.shared_prefix.size()) != spec.prompts.rows()) {
    throw Error("INPUT_INVALID", "every prompt needs the length of its shared prefix");
  }
  for (size_t p = 0; p < spec.shared_prefix.size(); ++p) {
    const int64_t length = spec.prompts.length(static_cast<int64_t>(p));
    if (spec.shared_prefix[p] >= 0 && spec.shared_prefix[p] < length) continue;
    throw Error("OPTION_INVALID", "prompt " + std::to_string(p) + ": the shared prefix has " +
                                      std::to_string(spec.shared_prefix[p]) +
                                      " tokens; expected less than the prompt's " + std::to_string(length));
  }
  for (size_t r = 0; r < rows; ++r) {
    const std::string name = "row " + std::to_string(r) + ": ";
    if (spec.row_prompt[r] < 0 || spec.row_prompt[r] >= spec.prompts.rows()) {
      throw Error("INPUT_INVALID", name + "prompt index " + std::to_string(spec.row_prompt[r]) + " of " +
                                       std::to_string(spec.prompts.rows()));
    }
    if (spec.max_tokens[r] < 1) throw Error("OPTION_INVALID", name + "maxTokens must be at least 1");
    if (!(spec.temperature[r] >= 0) || !std::isfinite(spec.temperature[r])) {
      throw Error("OPTION_INVALID", name + "temperature must be a number of at least 0");
    }
    if (!(spec.top_p[r] > 0 && spec.top_p[r] <= 1))
      throw Error("OPTION_INVALID", name + "topP must lie in (0, 1]");
    if (spec.top_k[r] < 0) throw Error("OPTION_INVALID", name + "topK must be at least 0");
    const int64_t length = spec.prompts.length(spec.row_prompt[r]);
    if (length >= model.config().max_positions) {
      throw Error("CONTEXT_LENGTH", "prompt " + std::to_string(spec.row_prompt[r]) + " has " +
                                        std::to_string(length) +
                                        " tokens and leaves no room in a context of " +
                                        std::to_string(model.config().max_positions));
    }
  }
  if (!spec.stop_strings.empty() && !model.has_token_bytes()) {
    throw Error("TOKENIZER_INVALID", "stop strings need the tokenizer's byte strings");
  }
  for (const std::string& stop : spec.stop_strings) {
    if (stop.empty()) throw Error("OPTION_INVALID", "a stop string is empty");
  }
}

}  // namespace selfedit
