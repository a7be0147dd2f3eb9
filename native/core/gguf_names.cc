#include "core/gguf_names.h"

#include <map>

#include "core/model.h"

namespace selfedit {

std::string FromGgufName(const std::string& name, const LoadSpec& spec) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  for (const char* factors : kRotaryFactors) {
    if (name == factors) return name;
  }
  if (name.rfind("blk.", 0) != 0) return "";
  const size_t dot = name.find('.', 4);
  const size_t last = name.rfind('.');
  if (dot == std::string::npos || last <= dot) return "";
  static const std::map<std::string, std::string> kParts = {
      {"attn_norm", "input_layernorm"},
      {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},
      {"attn_qkv", "self_attn.qkv_proj"},
      {"attn_q_norm", "self_attn.q_norm"},
      {"attn_k_norm", "self_attn.k_norm"},
      {"attn_output", "self_attn.o_proj"},
      {"post_attention_norm", "post_attention_layernorm"},
      {"post_ffw_norm", "post_feedforward_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},
      {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  const std::string part = name.substr(dot + 1, last - dot - 1);
  std::string mapped;
  if (part == "ffn_norm") {
    mapped = spec.config.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  } else if (part == "ffn_up" && spec.fused) {
    mapped = "mlp.gate_up_proj";
  } else if (const auto known = kParts.find(part); known != kParts.end()) {
    mapped = known->second;
  } else {
    return "";
  }
  return "model.layers." + name.substr(4, dot - 4) + "." + mapped + name.substr(last);
}

}  // namespace selfedit
