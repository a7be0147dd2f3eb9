#include "addon/convert.h"

namespace selfedit::addon {

ModelConfig ConfigFrom(const Napi::Object& o) {
  ModelConfig config;
  config.architecture = Text(o.Get("architecture"), "architecture");
  config.vocab_size = Integer(o, "vocabSize");
  config.hidden_size = Integer(o, "hiddenSize");
  config.intermediate_size = Integer(o, "intermediateSize");
  config.layers = Integer(o, "layers");
  config.heads = Integer(o, "heads");
  config.kv_heads = Integer(o, "kvHeads");
  config.head_dim = Integer(o, "headDim");
  config.max_positions = Integer(o, "maxPositions");
  config.rms_eps = Number(o, "rmsEps");
  config.rope_theta = Number(o, "ropeTheta");
  config.qkv_bias = Boolean(o, "qkvBias");
  config.output_bias = Boolean(o, "outputBias");
  config.mlp_bias = Boolean(o, "mlpBias");
  config.tied = Boolean(o, "tied");
  const Napi::Value scaling_value = o.Get("ropeScaling");
  if (scaling_value.IsObject()) {
    const Napi::Object scaling = scaling_value.As<Napi::Object>();
    const std::string type = Text(scaling.Get("type"), "ropeScaling.type");
    config.rope_scaling.factor = Number(scaling, "factor");
    if (type == "linear") {
      config.rope_scaling.type = RopeScaling::Type::kLinear;
    } else if (type == "llama3") {
      config.rope_scaling.type = RopeScaling::Type::kLlama3;
      config.rope_scaling.low_freq_factor = Number(scaling, "lowFreqFactor");
      config.rope_scaling.high_freq_factor = Number(scaling, "highFreqFactor");
      config.rope_scaling.original_max_positions = Number(scaling, "originalMaxPositions");
    } else {
      Invalid("ropeScaling.type", "linear or llama3");
    }
  }
  config.Check();
  return config;
}

Napi::Object ConfigObject(Napi::Env env, const ModelConfig& config) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("architecture", config.architecture);
  auto number = [&](const char* name, double value) { o.Set(name, value); };
  number("vocabSize", config.vocab_size);
  number("hiddenSize", config.hidden_size);
  number("intermediateSize", config.intermediate_size);
  number("layers", config.layers);
  number("heads", config.heads);
  number("kvHeads", config.kv_heads);
  number("headDim", config.head_dim);
  number("maxPositions", config.max_positions);
  number("rmsEps", config.rms_eps);
  number("ropeTheta", config.rope_theta);
  o.Set("qkvBias", config.qkv_bias);
  o.Set("outputBias", config.output_bias);
  o.Set("mlpBias", config.mlp_bias);
  o.Set("tied", config.tied);
  if (config.rope_scaling.type == RopeScaling::Type::kNone) {
    o.Set("ropeScaling", env.Null());
  } else {
    const bool linear = config.rope_scaling.type == RopeScaling::Type::kLinear;
    Napi::Object scaling = Napi::Object::New(env);
    scaling.Set("type", linear ? "linear" : "llama3");
    scaling.Set("factor", config.rope_scaling.factor);
    if (!linear) {
      scaling.Set("lowFreqFactor", config.rope_scaling.low_freq_factor);
      scaling.Set("highFreqFactor", config.rope_scaling.high_freq_factor);
      scaling.Set("originalMaxPositions", config.rope_scaling.original_max_positions);
    }
    o.Set("ropeScaling", scaling);
  }
  return o;
}

}  // namespace selfedit::addon
