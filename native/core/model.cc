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
    default:
      break;
  }
  if (const at::Tensor* gain = Gain(info)) return gain->unsqueeze(0);
  if (!info.vector()) return linear(id).weight().cpu();
  const int map = static_cast<int>(info.module) - static_cast<int>(Module::kQBias);
  return layers_[info.layer].linear[map].bias()->unsqueeze(0);
}

at::Tensor* Model::Gain(const MatrixInfo& info) {
  switch (info.module) {
    case Module::kAttentionNorm:
      return &layers_[info.layer].attention_norm;
    case Module::kMlpNorm:
      return &layers_[info.layer].mlp_norm;
    case Module::kPostAttentionNorm:
      return &layers_[info.layer].post_attention_norm;
    case Module::kPostMlpNorm:
      return &layers_[info.layer].post_mlp_norm;
    case Module::kQNorm:
      return &layers_[info.layer].q_norm;
    case Module::kKNorm:
      return &layers_[info.layer].k_norm;
    case Module::kFinalNorm:
      return &final_norm_;
    default:
      return nullptr;
  }
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

namespace {

// Llama 3.1: low frequencies are divided by the factor, with a smooth band between.
double Llama3Frequency(double f, const RopeScaling& scaling) {
  const double wavelength = 2.0 * M_PI / f;
  const double low = scaling.original_max_positions / scaling.low_freq_factor;
  const double high = scaling.original_max_positions / scaling.high_freq_factor;
  if (wavelength > low) return f / scaling.factor;
  if (wavelength <= high) return f;
  const double smooth = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - smooth) * f / scaling.factor + smooth * f;
}

// Radians a position, head_dim / 2 values.
std::vector<double> RopeFrequencies(const Rope& rope, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const double f = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
    switch (rope.scaling.type) {
      case RopeScaling::Type::kNone:
        frequencies[j] = f;
        break;
      case RopeScaling::Type::kLinear:
        frequencies[j] = f / rope.scaling.factor;
        break;
      case RopeScaling::Type::kLlama3:
        frequencies[j] = Llama3Frequency(f, rope.scaling);
        break;
      case RopeScaling::Type::kYarn:
      case RopeScaling::Type::kLongRope:
        frequencies[j] = f / rope.scaling.factors[j];
        break;
    }
  }
  return frequencies;
}

// As transformers does it: frequencies and angles in T.
template <typename T>
void FillRopeTables(const std::vector<double>& frequencies, double factor, int64_t rows, T* cos, T* sin) {
  for (int64_t p = 0; p < rows; ++p) {
    for (const double frequency : frequencies) {
      const T angle = static_cast<T>(p) * static_cast<T>(frequency);
      *cos++ = std::cos(angle) * static_cast<T>(factor);
      *sin++ = std::sin(angle) * static_cast<T>(factor);
    }
  }
}

}  // namespace

std::pair<at::Tensor, at::Tensor> Model::RopeTables(int64_t positions, bool local) const {
  auto& tables = rope_tables_[local ? 1 : 0];
  if (tables.first.defined() && tables.first.size(0) >= positions) return tables;
  const Rope& rope = local ? config_.local_rope.value() : config_.rope;
  const int64_t rows = std::min(config_.max_positions, std::max<int64_t>(256, 2 * positions));
  const std::vector<double> frequencies = RopeFrequencies(rope, config_.head_dim);
  at::Tensor cos = at::empty({rows, config_.head_dim / 2}, options()), sin = at::empty_like(cos);
  const double factor = rope.scaling.attention_factor;
  if (activation() == at::kDouble) {
    FillRopeTables(frequencies, factor, rows, cos.mutable_data_ptr<double>(), sin.mutable_data_ptr<double>());
  } else {
    FillRopeTables(frequencies, factor, rows, cos.mutable_data_ptr<float>(), sin.mutable_data_ptr<float>());
  }
  tables = {cos, sin};
  return tables;
}

std::vector<Model::NamedTensor> Model::Named() const {
  std::vector<NamedTensor> list{{"model.embed_tokens.weight", &embedding_},
                                {"model.norm.weight", &final_norm_}};
  if (!config_.tied) list.push_back({"lm_head.weight", &head_.weight()});
  std::vector<std::vector<NamedTensor>> gains(config_.layers);
  for (const MatrixInfo& info : tensors_) {
    if (info.layer >= 0 && Gain(info) != nullptr)
      gains[info.layer].push_back({info.name + ".weight", Gain(info)});
  }
  for (int64_t l = 0; l < config_.layers; ++l) {
    list.insert(list.end(), gains[l].begin(), gains[l].end());
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
void Model::SetHead(at::Tensor weight) { head_ = Linear(std::move(weight), std::nullopt, Operand::kFull); }

int64_t Model::parameters() const {
  int64_t total = 0;
  for (const NamedTensor& named : Named()) total += named.tensor->numel();
  return total;
}

int64_t Model::bytes() const {
  int64_t total = static_cast<int64_t>(embedding_.nbytes() + final_norm_.nbytes());
  for (const LayerWeights& layer : layers_) {
    for (const Linear& linear : layer.linear) total += linear.bytes();
  }
  for (const MatrixInfo& info : tensors_) {
    if (info.layer >= 0 && Gain(info) != nullptr) total += static_cast<int64_t>(Gain(info)->nbytes());
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
  for (const MatrixInfo& info : model->tensors_) {
    if (at::Tensor* gain = model->Gain(info)) *gain = at::ones({info.in}, activation);
  }
  model->SetHead(config.tied ? model->embedding_ : normal({config.vocab_size, config.hidden_size}));
  return model;
}

}  // namespace selfedit
