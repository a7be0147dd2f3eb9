// Model::Load: names, shapes, dtypes and finiteness of every tensor are checked before a model exists.
#include "core/device.h"
#include "core/gguf_names.h"
#include "core/model.h"
#include "core/weight_source.h"

namespace selfedit {
namespace {

// Phi-3 keeps q, k and v in one matrix, gate and up in another.
void SplitProjections(const ModelConfig& config, WeightSource* weights) {
  const int64_t c = config.hidden_size, kv = config.kv_heads * config.head_dim;
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    weights->Split(attention + "qkv_proj.weight", c,
                   {{attention + "q_proj.weight", config.heads * config.head_dim},
                    {attention + "k_proj.weight", kv},
                    {attention + "v_proj.weight", kv}});
    weights->Split(mlp + "gate_up_proj.weight", c,
                   {{mlp + "gate_proj.weight", config.intermediate_size},
                    {mlp + "up_proj.weight", config.intermediate_size}});
  }
}

}  // namespace

std::shared_ptr<Model> Model::Load(const LoadSpec& spec, const JobControl& control) {
  const ModelConfig& config = spec.config;
  config.Check();
  const at::Device device = ParseDevice(spec.device);
  WeightSource weights(spec, control);
  auto model = std::make_shared<Model>();
  model->SetConfig(config);
  model->dtype_ = spec.dtype;
  const at::ScalarType stored = spec.dtype == Dtype::kFloat64    ? at::kDouble
                                : spec.dtype == Dtype::kBFloat16 ? at::kBFloat16
                                                                 : at::kFloat;
  const at::ScalarType wide = model->activation();
  const int64_t c = config.hidden_size;
  // First, while nothing else is in memory: it looks at two tensors at once.
  if (config.tied) weights.CheckTied("lm_head.weight", "model.embed_tokens.weight");
  model->embedding_ = weights.Take("model.embed_tokens.weight", {config.vocab_size, c}, stored, 0);
  if (spec.fused) SplitProjections(config, &weights);
  model->layers_.resize(config.layers);
  for (const MatrixInfo& info : model->matrices_) {
    const bool q = info.module == Module::kQ, k = info.module == Module::kK, v = info.module == Module::kV;
    const int64_t permuted = spec.permuted_qk ? (q ? config.heads : k ? config.kv_heads : 0) : 0;
    const bool biased = (q || k || v)               ? config.qkv_bias
                        : info.module == Module::kO ? config.output_bias
                                                    : config.mlp_bias;
    std::optional<at::Tensor> bias;
    if (biased) bias = weights.Take(info.name + ".bias", {info.out}, wide, permuted);
    model->layers_[info.layer].linear[static_cast<int>(info.module)] =
        Linear(weights.Take(info.name + ".weight", {info.out, info.in}, stored, permuted), bias);
  }
  for (const MatrixInfo& info : model->tensors_) {
    at::Tensor* gain = model->Gain(info);
    if (gain == nullptr) continue;
    *gain = weights.Take(info.name + ".weight", {info.in}, wide, 0);
    if (spec.norm_offset != 0) *gain = at::add(*gain, static_cast<double>(spec.norm_offset));
  }
  if (config.tied) {
    model->SetHead(model->embedding_);
  } else {
    // Narrower than the activations only where that loses nothing.
    const bool narrow =
        stored == at::kBFloat16 && weights.FitsBFloat16("lm_head.weight", {config.vocab_size, c});
    model->SetHead(weights.Take("lm_head.weight", {config.vocab_size, c}, narrow ? stored : wide, 0));
  }
  for (const char* name : kRotaryFactors) weights.Ignore(name);
  weights.Finish();
  if (!device.is_cpu()) model->MoveTo(device);
  return model;
}

}  // namespace selfedit
