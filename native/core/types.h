// Plain data that crosses between the parts of the core: configuration, matrix names, ragged batches.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "format/error.h"

namespace selfedit {

enum class Dtype { kFloat32, kBFloat16, kFloat64 };
Dtype ParseDtype(const std::string& name);
const char* DtypeName(Dtype dtype);

struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3, kYarn, kLongRope } type = Type::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_positions = 8192;
  std::vector<double> factors;    // kYarn, kLongRope: divisors of the frequencies, head_dim / 2
  double attention_factor = 1.0;  // kYarn, kLongRope: of sines and cosines
};
struct Rope {
  double theta = 10000.0;
  RopeScaling scaling;
};
enum class Activation { kSilu, kGeluTanh };

// The fixed transformer graph; TypeScript makes it from config.json or GGUF metadata (lib/binding.ts,
// ModelConfig).
struct ModelConfig {
  std::string architecture = "llama";
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_positions = 0;
  double rms_eps = 1e-5;
  Rope rope;
  bool qkv_bias = false, output_bias = false, mlp_bias = false, tied = false;
  bool qk_norm = false, post_norms = false;
  Activation activation = Activation::kSilu;
  double embedding_scale = 1.0;
  double attention_scale = 0.0;  // 0: 1 / sqrt(head_dim)
  int64_t sliding_window = 0;    // tokens, the query's own included; 0: none
  std::vector<bool> sliding;     // a layer each; empty: every layer where there is a window
  std::optional<Rope> local_rope;

  bool Sliding(int64_t layer) const {
    return sliding_window > 0 && (sliding.empty() || sliding[static_cast<size_t>(layer)]);
  }
  // Tokens that a query of the layer sees at most; 0: all.
  int64_t Window(int64_t layer) const { return Sliding(layer) ? sliding_window : 0; }
  double AttentionScale() const {
    return attention_scale > 0 ? attention_scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
  }
  void Check() const;  // throws CONFIG_INVALID
};

// The weights that deltas can change. The linear maps of the layers come first, in the order of their ids;
// then what lies outside of them.
enum class Module {
  kQ,
  kK,
  kV,
  kO,
  kGate,
  kUp,
  kDown,  // linear maps, [out, in]
  kEmbedding,
  kHead,  // [vocabulary, hidden]; a tied head is the embedding
  kAttentionNorm,
  kMlpNorm,
  kFinalNorm,  // gains, as [1, hidden]
  kPostAttentionNorm,
  kPostMlpNorm,  // with post_norms
  kQNorm,
  kKNorm,  // with qk_norm; [1, head_dim]
  kQBias,
  kKBias,
  kVBias,
  kOBias,
  kGateBias,
  kUpBias,
  kDownBias,  // as [1, out]
};
constexpr int kModulesPerLayer = 7;
const char* ModuleName(Module module);  // "q_proj" …

struct MatrixInfo {
  std::string name;   // "model.layers.0.self_attn.q_proj"
  int64_t layer = 0;  // -1 outside of the layers
  Module module = Module::kQ;
  int64_t out = 0, in = 0;
  // A gain or bias: a matrix of one row.
  bool vector() const { return module >= Module::kAttentionNorm; }
  // As PEFT and transformers call it: "q_proj", "post_attention_layernorm", "q_proj.bias".
  std::string ModuleLabel() const;
};
inline int64_t MatrixId(int64_t layer, Module module) {
  return layer * kModulesPerLayer + static_cast<int64_t>(module);
}
// The linear maps of all layers.
std::vector<MatrixInfo> ListMatrices(const ModelConfig& config);
// All that a delta can change: the linear maps (the same ids), then embedding, untied head, and the vectors.
std::vector<MatrixInfo> ListTensors(const ModelConfig& config);

// Ids of what lies outside of the linear maps; -1 where the model has none.
struct TensorIds {
  int64_t embedding = -1, head = -1, final_norm = -1;  // head: the embedding's id when tied
  std::vector<int64_t> attention_norm, mlp_norm;       // a layer each
  std::vector<int64_t> post_attention_norm, post_mlp_norm, q_norm, k_norm;
  std::vector<int64_t> bias;  // a linear map each
  explicit TensorIds(const std::vector<MatrixInfo>& tensors, int64_t layers);
  TensorIds() = default;
};

// Rows end to end: row r is tokens[offsets[r] .. offsets[r + 1]).
struct Ragged {
  std::vector<int32_t> tokens;
  std::vector<int32_t> offsets{0};
  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t length(int64_t row) const { return offsets[row + 1] - offsets[row]; }
  void Append(const int32_t* begin, int64_t count) {
    tokens.insert(tokens.end(), begin, begin + count);
    offsets.push_back(static_cast<int32_t>(tokens.size()));
  }
};

// Checks offsets, token range, row lengths (1 … max_positions); the error names the row.
void CheckRagged(const Ragged& rows, const ModelConfig& config, const char* what);

struct Progress {
  double done = 0, total = 0, step = 0, loss = 0;
};

// What a running job may ask and tell. Check() is called once a step and throws ABORTED.
struct JobControl {
  const std::atomic<bool>* stop = nullptr;
  std::function<void(const Progress&)> report;
  std::function<void(const std::string&)> warn;  // what the caller should know although the work goes on
  void Check() const {
    if (stop != nullptr && stop->load(std::memory_order_relaxed))
      throw Error("ABORTED", "the call was aborted");
  }
  void Warn(const std::string& text) const {
    if (warn) warn(text);
  }
  void Report(const Progress& progress) const {
    if (report) report(progress);
  }
};

}  // namespace selfedit
