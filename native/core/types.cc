#include "core/types.h"

namespace selfedit {

Dtype ParseDtype(const std::string& name) {
  if (name == "float32") return Dtype::kFloat32;
  if (name == "bfloat16") return Dtype::kBFloat16;
  if (name == "float64") return Dtype::kFloat64;
  throw Error("OPTION_INVALID", "dtype is \"" + name + "\"; expected float32, bfloat16 or float64");
}

const char* DtypeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
      return "float32";
    case Dtype::kBFloat16:
      return "bfloat16";
    default:
      return "float64";
  }
}

const char* ModuleName(Module module) {
  static const char* const kNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                       "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(module)];
}

namespace {
void Positive(int64_t value, const char* name) {
  if (value < 1 || value > (int64_t{1} << 30)) {
    throw Error("CONFIG_INVALID",
                std::string(name) + " is " + std::to_string(value) + "; expected a positive integer");
  }
}
}  // namespace

void ModelConfig::Check() const {
  Positive(vocab_size, "vocabSize");
  Positive(hidden_size, "hiddenSize");
  Positive(intermediate_size, "intermediateSize");
  Positive(layers, "layers");
  Positive(heads, "heads");
  Positive(kv_heads, "kvHeads");
  Positive(head_dim, "headDim");
  Positive(max_positions, "maxPositions");
  if (heads % kv_heads != 0) {
    throw Error("CONFIG_INVALID", "heads (" + std::to_string(heads) + ") is not a multiple of kvHeads (" +
                                      std::to_string(kv_heads) + ")");
  }
  if (head_dim % 2 != 0)
    throw Error("CONFIG_INVALID", "headDim is " + std::to_string(head_dim) + "; expected an even number");
  if (!(rms_eps >= 0)) throw Error("CONFIG_INVALID", "rmsEps must not be negative");
  if (!(rope_theta > 0)) throw Error("CONFIG_INVALID", "ropeTheta must be positive");
}

std::vector<MatrixInfo> ListMatrices(const ModelConfig& config) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  std::vector<MatrixInfo> list;
  list.reserve(config.layers * kModulesPerLayer);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    auto add = [&](const char* block, Module module, int64_t out, int64_t in) {
      list.push_back({prefix + block + "." + ModuleName(module), layer, module, out, in});
    };
    add("self_attn", Module::kQ, q, c);
    add("self_attn", Module::kK, kv, c);
    add("self_attn", Module::kV, kv, c);
    add("self_attn", Module::kO, c, q);
    add("mlp", Module::kGate, f, c);
    add("mlp", Module::kUp, f, c);
    add("mlp", Module::kDown, c, f);
  }
  return list;
}

void CheckRagged(const Ragged& rows, const ModelConfig& config, const char* what) {
  const auto& offsets = rows.offsets;
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != static_cast<int64_t>(rows.tokens.size())) {
    throw Error("INPUT_INVALID",
                std::string(what) + ": offsets must start at 0 and end at the number of tokens");
  }
  for (int64_t r = 0; r < rows.rows(); ++r) {
    const int64_t length = rows.length(r);
    if (length < 1)
      throw Error("PROMPT_EMPTY", std::string(what) + " " + std::to_string(r) + " has no tokens");
    if (length > config.max_positions) {
      throw Error("CONTEXT_LENGTH", std::string(what) + " " + std::to_string(r) + " has " +
                                        std::to_string(length) + " tokens; the model's context holds " +
                                        std::to_string(config.max_positions));
    }
    for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
      if (rows.tokens[i] < 0 || rows.tokens[i] >= config.vocab_size) {
        throw Error("TOKEN_RANGE", std::string(what) + " " + std::to_string(r) + ", position " +
                                       std::to_string(i - offsets[r]) + ": token id " +
                                       std::to_string(rows.tokens[i]) + " is outside the vocabulary of " +
                                       std::to_string(config.vocab_size));
      }
    }
  }
}

}  // namespace selfedit
