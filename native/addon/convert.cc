#include "addon/convert.h"

namespace selfedit::addon {

namespace {

struct ScalingName {
  RopeScaling::Type type;
  const char* name;
};
constexpr ScalingName kScalings[] = {{RopeScaling::Type::kLinear, "linear"},
                                     {RopeScaling::Type::kLlama3, "llama3"},
                                     {RopeScaling::Type::kYarn, "yarn"},
                                     {RopeScaling::Type::kLongRope, "longrope"}};

bool Given(const Napi::Value& value) { return !value.IsUndefined() && !value.IsNull(); }

bool HasFactors(const RopeScaling& scaling) {
  return scaling.type == RopeScaling::Type::kYarn || scaling.type == RopeScaling::Type::kLongRope;
}

RopeScaling ScalingFrom(const Napi::Object& o) {
  RopeScaling scaling;
  const std::string type = Text(o.Get("type"), "ropeScaling.type");
  for (const ScalingName& known : kScalings) {
    if (type == known.name) scaling.type = known.type;
  }
  if (scaling.type == RopeScaling::Type::kNone)
    Invalid("ropeScaling.type", "linear, llama3, yarn or longrope");
  scaling.factor = Number(o, "factor");
  if (scaling.type == RopeScaling::Type::kLlama3) {
    scaling.low_freq_factor = Number(o, "lowFreqFactor");
    scaling.high_freq_factor = Number(o, "highFreqFactor");
  }
  if (scaling.type == RopeScaling::Type::kLlama3 || Given(o.Get("originalMaxPositions")))
    scaling.original_max_positions = Number(o, "originalMaxPositions");
  if (HasFactors(scaling)) {
    const Napi::Array factors = List(o.Get("factors"), "ropeScaling.factors");
    for (uint32_t i = 0; i < factors.Length(); ++i) {
      const Napi::Value factor = factors.Get(i);
      if (!factor.IsNumber()) Invalid("ropeScaling.factors", "numbers");
      scaling.factors.push_back(factor.As<Napi::Number>().DoubleValue());
    }
    if (Given(o.Get("attentionFactor"))) scaling.attention_factor = Number(o, "attentionFactor");
  }
  return scaling;
}

Rope RopeFrom(const Napi::Object& o) {
  Rope rope;
  rope.theta = Number(o, "ropeTheta");
  const Napi::Value scaling = o.Get("ropeScaling");
  if (scaling.IsObject()) rope.scaling = ScalingFrom(scaling.As<Napi::Object>());
  return rope;
}

void SetRope(Napi::Object o, const Rope& rope) {
  const Napi::Env env = o.Env();
  o.Set("ropeTheta", rope.theta);
  o.Set("ropeScaling", env.Null());
  for (const ScalingName& known : kScalings) {
    if (rope.scaling.type != known.type) continue;
    Napi::Object scaling = Napi::Object::New(env);
    scaling.Set("type", known.name);
    scaling.Set("factor", rope.scaling.factor);
    if (known.type == RopeScaling::Type::kLlama3) {
      scaling.Set("lowFreqFactor", rope.scaling.low_freq_factor);
      scaling.Set("highFreqFactor", rope.scaling.high_freq_factor);
    }
    if (known.type != RopeScaling::Type::kLinear)
      scaling.Set("originalMaxPositions", rope.scaling.original_max_positions);
    if (HasFactors(rope.scaling)) {
      Napi::Array factors = Napi::Array::New(env);
      for (const double factor : rope.scaling.factors)
        factors.Set(factors.Length(), Napi::Number::New(env, factor));
      scaling.Set("factors", factors);
      scaling.Set("attentionFactor", rope.scaling.attention_factor);
    }
    o.Set("ropeScaling", scaling);
  }
}

// What only some architectures have; absent: none of it.
void ReadExtras(const Napi::Object& o, ModelConfig* config) {
  if (Given(o.Get("qkNorm"))) config->qk_norm = Boolean(o, "qkNorm");
  if (Given(o.Get("postNorms"))) config->post_norms = Boolean(o, "postNorms");
  if (Given(o.Get("activation"))) {
    const std::string name = Text(o.Get("activation"), "activation");
    if (name != "silu" && name != "gelu_pytorch_tanh") Invalid("activation", "silu or gelu_pytorch_tanh");
    config->activation = name == "silu" ? Activation::kSilu : Activation::kGeluTanh;
  }
  if (Given(o.Get("embeddingScale"))) config->embedding_scale = Number(o, "embeddingScale");
  if (Given(o.Get("attentionScale"))) config->attention_scale = Number(o, "attentionScale");
  if (Given(o.Get("slidingWindow"))) config->sliding_window = Integer(o, "slidingWindow");
  if (Given(o.Get("layerTypes"))) {
    const Napi::Array types = List(o.Get("layerTypes"), "layerTypes");
    for (uint32_t i = 0; i < types.Length(); ++i) {
      const std::string type = Text(types.Get(i), "layerTypes");
      if (type != "full_attention" && type != "sliding_attention")
        Invalid("layerTypes", "full_attention or sliding_attention");
      config->sliding.push_back(type == "sliding_attention");
    }
  }
  const Napi::Value local = o.Get("localRope");
  if (Given(local)) config->local_rope = RopeFrom(Object(local, "localRope"));
}

void SetExtras(Napi::Object o, const ModelConfig& config) {
  const Napi::Env env = o.Env();
  if (config.qk_norm) o.Set("qkNorm", true);
  if (config.post_norms) o.Set("postNorms", true);
  if (config.activation == Activation::kGeluTanh) o.Set("activation", "gelu_pytorch_tanh");
  if (config.embedding_scale != 1) o.Set("embeddingScale", config.embedding_scale);
  if (config.attention_scale > 0) o.Set("attentionScale", config.attention_scale);
  if (config.sliding_window > 0) {
    o.Set("slidingWindow", static_cast<double>(config.sliding_window));
    Napi::Array types = Napi::Array::New(env);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      types.Set(static_cast<uint32_t>(layer), config.Sliding(layer) ? "sliding_attention" : "full_attention");
    }
    o.Set("layerTypes", types);
  }
  if (config.local_rope) {
    Napi::Object local = Napi::Object::New(env);
    SetRope(local, *config.local_rope);
    o.Set("localRope", local);
  }
}

}  // namespace

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
  config.rope = RopeFrom(o);
  config.qkv_bias = Boolean(o, "qkvBias");
  config.output_bias = Boolean(o, "outputBias");
  config.mlp_bias = Boolean(o, "mlpBias");
  config.tied = Boolean(o, "tied");
  ReadExtras(o, &config);
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
  SetRope(o, config.rope);
  o.Set("qkvBias", config.qkv_bias);
  o.Set("outputBias", config.output_bias);
  o.Set("mlpBias", config.mlp_bias);
  o.Set("tied", config.tied);
  SetExtras(o, config);
  return o;
}

}  // namespace selfedit::addon
