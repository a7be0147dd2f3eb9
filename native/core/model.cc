#include "core/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/accelerator.h"
#include "core/philox.h"
#include "format/sha256.h"

namespace selfedit {

void Model::SetConfig(const ModelConfig& config) {
  config_ = config;
  matrices_ = ListMatrices(config);
  tensors_ = ListTensors(config);
  ids_ = TensorIds(tensors_, config.layers);
}

at::Tensor Model::Weight(int64_t id) const {
  const MatrixInfo& info = tensors_.at(id);
  switch (info.module) {
    case Module::kEmbedding:
      return embedding_.cpu();
    case Module::kHead:
      return head_.weight().cpu();
    case Module::kAttentionNorm:
      return layers_[info.layer].attention_norm.unsqueeze(0);
    case Module::kMlpNorm:
      return layers_[info.layer].mlp_norm.unsqueeze(0);
    case Module::kFinalNorm:
      return final_norm_.unsqueeze(0);
    default:
      break;
  }
  if (!info.vector()) return linear(id).weight().cpu();
  const int map = static_cast<int>(info.module) - static_cast<int>(Module::kQBias);
  return layers_[info.layer].linear[map].bias()->unsqueeze(0);
}

at::Tensor Model::Embed(const at::Tensor& tokens) const {
  return at::index_select(embedding_, 0, tokens).to(activation());
}

void Model::MoveTo(at::Device device) {
  device_weights_ = CudaAccelerator().upload(*this, device);
  device_ = device.str();
  for (const MatrixInfo& info : matrices_) {
    Linear& linear = layers_[info.layer].linear[static_cast<int>(info.module)];
    linear = Linear(device_weights_->Weight(MatrixId(info.layer, info.module)), linear.bias());
  }
  embedding_ = device_weights_->Weight(ids_.embedding);
  // A head that the device keeps less exactly stays on the host as well.
  const at::Tensor head = device_weights_->Weight(ids_.head);
  if (config_.tied || head.scalar_type() == head_.weight().scalar_type()) head_ = Linear(head, std::nullopt);
}

void RequireCpu(const Model& model, const char* what) {
  if (!OnDevice(model)) return;
  throw Error("DEVICE_UNSUPPORTED", std::string(what) + " is computed on the CPU only; the model is on " +
                                        model.device() + "; load it on the CPU");
}

std::pair<at::Tensor, at::Tensor> Model::RopeTables(int64_t positions) const {
  if (rope_cos_.defined() && rope_cos_.size(0) >= positions) return {rope_cos_, rope_sin_};
  // As transformers does it: inverse frequencies and angles in float32 (float64 for a float64 model).
  const int64_t half = config_.head_dim / 2;
  const int64_t rows = std::min(config_.max_positions, std::max<int64_t>(256, 2 * positions));
  std::vector<double> inverse(half);
  const RopeScaling& scaling = config_.rope.scaling;
  for (int64_t j = 0; j < half; ++j) {
    double f = 1.0 / std::pow(config_.rope.theta, 2.0 * j / config_.head_dim);
    if (scaling.type == RopeScaling::Type::kLinear) f /= scaling.factor;
    if (scaling.type == RopeScaling::Type::kLlama3) {
      // Llama 3.1: low frequencies are divided by the factor, with a smooth band between.
      const double wavelength = 2.0 * M_PI / f;
      const double low = scaling.original_max_positions / scaling.low_freq_factor;
      const double high = scaling.original_max_positions / scaling.high_freq_factor;
      if (wavelength > low) {
        f /= scaling.factor;
      } else if (wavelength > high) {
        const double smooth = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) /
                              (scaling.high_freq_factor - scaling.low_freq_factor);
        f = (1.0 - smooth) * f / scaling.factor + smooth * f;
      }
    }
    inverse[j] = f;
  }
  at::Tensor cos = at::empty({rows, half}, options()), sin = at::empty_like(cos);
  for (int64_t p = 0; p < rows; ++p) {
    for (int64_t j = 0; j < half; ++j) {
      if (activation() == at::kDouble) {
        const double angle = p * inverse[j];
        cos.mutable_data_ptr<double>()[p * half + j] = std::cos(angle);
        sin.mutable_data_ptr<double>()[p * half + j] = std::sin(angle);
      } else {
        const float angle = static_cast<float>(p) * static_cast<float>(inverse[j]);
        cos.mutable_data_ptr<float>()[p * half + j] = std::cos(angle);
        sin.mutable_data_ptr<float>()[p * half + j] = std::sin(angle);
      }
    }
  }
  rope_cos_ = cos;
  rope_sin_ = sin;
  return {cos, sin};
}

std::vector<Model::NamedTensor> Model::Named() const {
  std::vector<NamedTensor> list{{"model.embed_tokens.weight", &embedding_},
                                {"model.norm.weight", &final_norm_}};
  if (!config_.tied) list.push_back({"lm_head.weight", &head_.weight()});
  for (int64_t l = 0; l < config_.layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    list.push_back({prefix + "input_layernorm.weight", &layers_[l].attention_norm});
    list.push_back({prefix + "post_attention_layernorm.weight", &layers_[l].mlp_norm});
    for (int m = 0; m < kModulesPerLayer; ++m) {
      const Linear& linear = layers_[l].linear[m];
      const std::string& name = matrices_[l * kModulesPerLayer + m].name;
      list.push_back({name + ".weight", &linear.weight()});
      if (linear.bias()) list.push_back({name + ".bias", &*linear.bias()});
    }
  }
  return list;
}

// A bfloat16 model's head shares the embedding when they are tied. Of its own, it stays in float32 unless
// bfloat16 holds the very same values.
void Model::SetHead(at::Tensor weight) {
  if (dtype_ == Dtype::kBFloat16 && weight.scalar_type() == at::kFloat) {
    const at::Tensor half = weight.to(at::kBFloat16);
    if (at::equal(half.to(at::kFloat), weight)) weight = half;
  }
  head_ = Linear(std::move(weight), std::nullopt, Operand::kFull);
}

int64_t Model::parameters() const {
  int64_t total = 0;
  for (const NamedTensor& named : Named()) total += named.tensor->numel();
  return total;
}

int64_t Model::bytes() const {
  int64_t total = static_cast<int64_t>(embedding_.nbytes() + final_norm_.nbytes());
  for (const LayerWeights& layer : layers_) {
    total += static_cast<int64_t>(layer.attention_norm.nbytes() + layer.mlp_norm.nbytes());
    for (const Linear& linear : layer.linear) total += linear.bytes();
  }
  total += head_.bytes();
  if (head_.weight().is_same(embedding_)) total -= static_cast<int64_t>(embedding_.nbytes());
  return total;
}

std::string Model::Fingerprint(const JobControl& control) const {
  Sha256 hash;
  for (const NamedTensor& named : Named()) {
    control.Check();
    std::string line = named.name;
    for (const int64_t size : named.tensor->sizes()) (line += ',') += std::to_string(size);
    line += std::string(",") + DtypeName(dtype_) + ";";
    hash.Update(line.data(), line.size());
    // How the head is kept depends on the device; what it holds does not.
    const bool head_weight = named.tensor == &head_.weight();
    const at::Tensor plain =
        (head_weight ? named.tensor->to(activation()) : *named.tensor).cpu().contiguous();
    hash.Update(plain.const_data_ptr(), plain.nbytes());
  }
  return hash.HexDigest();
}

void Model::SetTokenBytes(std::vector<uint8_t> bytes, std::vector<int32_t> offsets) {
  const bool right = offsets.size() == static_cast<size_t>(config_.vocab_size) + 1 && offsets.front() == 0 &&
                     offsets.back() == static_cast<int64_t>(bytes.size()) &&
                     std::is_sorted(offsets.begin(), offsets.end());
  if (!right)
    throw Error("TOKENIZER_INVALID", "token bytes: offsets do not describe one byte string a token id");
  token_bytes_ = std::move(bytes);
  token_offsets_ = std::move(offsets);
}

std::string_view Model::TokenBytes(int32_t token) const {
  const char* begin = reinterpret_cast<const char*>(token_bytes_.data());
  return {begin + token_offsets_[token],
          static_cast<size_t>(token_offsets_[token + 1] - token_offsets_[token])};
}

std::shared_ptr<Model> Model::Random(const ModelConfig& config, Dtype dtype, uint64_t key, double std) {
  config.Check();
  if (!(std >= 0) || !std::isfinite(std)) {
    throw Error("OPTION_INVALID", "std is " + std::to_string(std) + "; expected a number of at least 0");
  }
  auto model = std::make_shared<Model>();
  model->SetConfig(config);
  model->dtype_ = dtype;
  const at::ScalarType stored = dtype == Dtype::kFloat64    ? at::kDouble
                                : dtype == Dtype::kBFloat16 ? at::kBFloat16
                                                            : at::kFloat;
  uint64_t lane = 0;
  // Box–Muller over keyed draws; float32 values whatever the dtype, so that models of one key agree across
  // dtypes.
  auto normal = [&](std::vector<int64_t> shape) {
    at::Tensor t = at::empty(shape, at::kFloat);
    float* out = t.mutable_data_ptr<float>();
    const int64_t count = t.numel();
    ++lane;
    for (int64_t i = 0; i < count; i += 4) {
      const Philox4 draw = Philox(key, i / 4, lane);
      for (int64_t j = 0; j < 4 && i + j < count; j += 2) {
        const double radius = std::sqrt(-2.0 * std::log(UniformOpenFloat(draw.v[j])));
        const double angle = 2.0 * M_PI * UniformOpenFloat(draw.v[j + 1]);
        out[i + j] = static_cast<float>(std * radius * std::cos(angle));
        if (i + j + 1 < count) out[i + j + 1] = static_cast<float>(std * radius * std::sin(angle));
      }
    }
    return t.to(stored);
  };
  const auto activation = at::TensorOptions().dtype(model->activation());
  model->embedding_ = normal({config.vocab_size, config.hidden_size});
  model->final_norm_ = at::ones({config.hidden_size}, activation);
  model->layers_.resize(config.layers);
  for (const MatrixInfo& info : model->matrices_) {
    const bool attention_in =
        info.module == Module::kQ || info.module == Module::kK || info.module == Module::kV;
    const bool biased = attention_in                ? config.qkv_bias
                        : info.module == Module::kO ? config.output_bias
                                                    : config.mlp_bias;
    std::optional<at::Tensor> bias;
    if (biased) bias = at::zeros({info.out}, activation);
    model->layers_[info.layer].linear[static_cast<int>(info.module)] =
        Linear(normal({info.out, info.in}), bias);
  }
  for (LayerWeights& layer : model->layers_) {
    layer.attention_norm = at::ones({config.hidden_size}, activation);
    layer.mlp_norm = at::ones({config.hidden_size}, activation);
  }
  model->SetHead(config.tied ? model->embedding_
                             : normal({config.vocab_size, config.hidden_size}).to(model->activation()));
  return model;
}

}  // namespace selfedit
