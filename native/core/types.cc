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

std::string MatrixInfo::ModuleLabel() const {
  if (!vector() || module >= Module::kQBias) return ModuleName(module);
  const size_t dot = name.rfind('.');
  return name.substr(dot + 1);
}

const char* ModuleName(Module module) {
  static const char* const kNames[] = {"q_proj",
                                       "k_proj",
                                       "v_proj",
                                       "o_proj",
                                       "gate_proj",
                                       "up_proj",
                                       "down_proj",
                                       "embed_tokens",
                                       "lm_head",
                                       "input_layernorm",
                                       "post_attention_layernorm",
                                       "norm",
                                       "post_attention_norm",
                                       "post_mlp_norm",
                                       "q_norm",
                                       "k_norm",
                                       "q_proj.bias",
                                       "k_proj.bias",
                                       "v_proj.bias",
                                       "o_proj.bias",
                                       "gate_proj.bias",
                                       "up_proj.bias",
                                       "down_proj.bias"};
  return kNames[static_cast<int>(module)];
}

namespace {
void Positive(int64_t value, const char* name) {
  if (value < 1 || value > (int64_t{1} << 30)) {
    throw Error("CONFIG_INVALID",
                std::string(name) + " is " + std::to_string(value) + "; expected a positive integer");
  }
}

void CheckRope(const Rope& rope, int64_t head_dim, const std::string& prefix) {
  if (!(rope.theta > 0)) throw Error("CONFIG_INVALID", prefix + "ropeTheta must be positive");
  const RopeScaling& scaling = rope.scaling;
  if (scaling.type != RopeScaling::Type::kYarn && scaling.type != RopeScaling::Type::kLongRope) return;
  if (static_cast<int64_t>(scaling.factors.size()) != head_dim / 2) {
    throw Error("CONFIG_INVALID",
                prefix + "ropeScaling.factors has " + std::to_string(scaling.factors.size()) +
                    " entries; expected headDim / 2 (" + std::to_string(head_dim / 2) + ")");
  }
  for (const double factor : scaling.factors) {
    if (!(factor > 0) || !std::isfinite(factor))
      throw Error("CONFIG_INVALID", prefix + "ropeScaling.factors must be positive");
  }
  if (!(scaling.attention_factor > 0) || !std::isfinite(scaling.attention_factor))
    throw Error("CONFIG_INVALID", prefix + "ropeScaling.attentionFactor must be positive");
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
  if (!(embedding_scale > 0) || !std::isfinite(embedding_scale))
    throw Error("CONFIG_INVALID", "embeddingScale must be positive");
  if (!(attention_scale >= 0) || !std::isfinite(attention_scale))
    throw Error("CONFIG_INVALID", "attentionScale must be positive");
  if (sliding_window < 0)
    throw Error("CONFIG_INVALID", "slidingWindow is " + std::to_string(sliding_window) +
                                      "; expected a positive number of tokens");
  if (!sliding.empty() && static_cast<int64_t>(sliding.size()) != layers) {
    throw Error("CONFIG_INVALID", "layerTypes has " + std::to_string(sliding.size()) +
                                      " entries; expected one for each of " + std::to_string(layers) +
                                      " layers");
  }
  CheckRope(rope, head_dim, "");
  if (local_rope) CheckRope(*local_rope, head_dim, "localRope.");
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

std::vector<MatrixInfo> ListTensors(const ModelConfig& config) {
  std::vector<MatrixInfo> list = ListMatrices(config);
  const size_t maps = list.size();
  const int64_t c = config.hidden_size;
  list.push_back({"model.embed_tokens", -1, Module::kEmbedding, config.vocab_size, c});
  if (!config.tied) list.push_back({"lm_head", -1, Module::kHead, config.vocab_size, c});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    auto gain = [&](const char* name, Module module, int64_t size) {
      list.push_back({prefix + name, layer, module, 1, size});
    };
    // As transformers names them: with post norms, "post_attention_layernorm" is one of these.
    gain("input_layernorm", Module::kAttentionNorm, c);
    gain(config.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm", Module::kMlpNorm, c);
    if (config.post_norms) {
      gain("post_attention_layernorm", Module::kPostAttentionNorm, c);
      gain("post_feedforward_layernorm", Module::kPostMlpNorm, c);
    }
    if (config.qk_norm) {
      gain("self_attn.q_norm", Module::kQNorm, config.head_dim);
      gain("self_attn.k_norm", Module::kKNorm, config.head_dim);
    }
  }
  list.push_back({"model.norm", -1, Module::kFinalNorm, 1, c});
  for (size_t id = 0; id < maps; ++id) {
    const MatrixInfo map = list[id];
    const bool biased = map.module <= Module::kV   ? config.qkv_bias
                        : map.module == Module::kO ? config.output_bias
                                                   : config.mlp_bias;
    if (!biased) continue;
    const int module = static_cast<int>(Module::kQBias) + static_cast<int>(map.module);
    list.push_back({map.name + ".bias", map.layer, static_cast<Module>(module), 1, map.out});
  }
  return list;
}

TensorIds::TensorIds(const std::vector<MatrixInfo>& tensors, int64_t layers)
    : attention_norm(layers, -1),
      mlp_norm(layers, -1),
      post_attention_norm(layers, -1),
      post_mlp_norm(layers, -1),
      q_norm(layers, -1),
      k_norm(layers, -1),
      bias(layers * kModulesPerLayer, -1) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t id = static_cast<int64_t>(i), layer = tensors[i].layer;
    switch (tensors[i].module) {
      case Module::kEmbedding:
        embedding = id;
        if (head < 0) head = id;
        break;
      case Module::kHead:
        head = id;
        break;
      case Module::kAttentionNorm:
        attention_norm[layer] = id;
        break;
      case Module::kMlpNorm:
        mlp_norm[layer] = id;
        break;
      case Module::kFinalNorm:
        final_norm = id;
        break;
      case Module::kPostAttentionNorm:
        post_attention_norm[layer] = id;
        break;
      case Module::kPostMlpNorm:
        post_mlp_norm[layer] = id;
        break;
      case Module::kQNorm:
        q_norm[layer] = id;
        break;
      case Module::kKNorm:
        k_norm[layer] = id;
        break;
      default:
        if (tensors[i].module >= Module::kQBias) {
          const int map = static_cast<int>(tensors[i].module) - static_cast<int>(Module::kQBias);
          bias[MatrixId(layer, static_cast<Module>(map))] = id;
        }
    }
  }
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
