// Model::Load: names, shapes, dtypes and finiteness of every tensor are checked before a model exists.
#include "core/device.h"
#include "core/gguf_names.h"
#include "core/model.h"
#include "core/weight_source.h"

namespace selfedit {
namespace {

<<<<<<< Updated upstream
=======
// Tensors whose values are already part of the configuration as its rope scaling.
constexpr const char* kRotaryFactors[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                          "rope_factors_short.weight"};

// Hugging Face name of a GGUF tensor; empty when it is not one of this graph.
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

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/// Of a file's bytes that one thread converts at a time.
constexpr int64_t kPieceBytes = 1 << 20;

class Loader {
 public:
  Loader(const LoadSpec& spec, const JobControl& control) : spec_(spec), control_(control) {
    for (const std::string& path : spec.files) {
      auto file = TensorFile::Open(path, spec.gguf ? Format::kGguf : Format::kSafetensors);
      for (const TensorInfo& info : file->tensors()) {
        const std::string name = spec.gguf ? FromGgufName(info.name, spec) : info.name;
        if (name.empty()) {
          unexpected_.push_back(info.name);
          continue;
        }
        if (!sources_.emplace(name, StoredTensor{file, &info}).second) {
          throw Error("FILE_FORMAT", path + ": tensor \"" + info.name + "\" is present twice");
        }
        total_ += static_cast<double>(info.bytes);
      }
    }
  }

  // Takes a matrix apart into blocks of rows, each of which then is a tensor of its own. One that is missing
  // is reported with all others.
  void Split(const std::string& name, int64_t in,
             const std::vector<std::pair<std::string, int64_t>>& name_and_rows) {
    const auto found = sources_.find(name);
    if (found == sources_.end()) {
      missing_.push_back(name);
      for (const auto& part : name_and_rows) split_.insert(part.first);
      return;
    }
    const StoredTensor whole = found->second;
    int64_t rows = 0;
    for (const auto& part : name_and_rows) rows += part.second;
    CheckShape(whole, {rows, in});
    sources_.erase(found);
    uint64_t offset = whole.info->offset;
    for (const auto& [part, count] : name_and_rows) {
      TensorInfo info = *whole.info;
      info.shape[0] = count;
      info.offset = offset;
      info.bytes = static_cast<uint64_t>(count) * whole.info->RowBytes();
      offset += info.bytes;
      parts_.push_back(std::move(info));
      if (!sources_.emplace(part, StoredTensor{whole.file, &parts_.back()}).second) {
        throw Error("FILE_FORMAT",
                    whole.file->path() + ": both \"" + name + "\" and \"" + part + "\" are present");
      }
    }
  }

  // The tensor in the stored type (weights) or the activation type (norms and biases); undefined when it is
  // missing, which Finish reports together with all others.
  at::Tensor Take(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType type,
                  int64_t permuted_heads) {
    const auto found = sources_.find(name);
    if (found == sources_.end()) {
      if (split_.count(name) == 0) missing_.push_back(name);
      return at::zeros({1}, type);
    }
    control_.Check();
    used_.insert(name);
    const StoredTensor source = found->second;
    CheckShape(source, shape);
    CheckReal(*source.file, *source.info);
    if (std::optional<at::Tensor> mapped = Mapped(source, shape, type, permuted_heads)) return *mapped;
    at::Tensor tensor = Read(source, shape, type, permuted_heads);
    Report(static_cast<int64_t>(source.info->bytes));
    return tensor;
  }

  void Ignore(const std::string& name) { used_.insert(name); }

  // A head that only repeats the tied embedding may be there; one that differs is of another model.
  void CheckTied(const std::string& head, const std::string& embedding) {
    Ignore(head);
    const auto a = sources_.find(head), b = sources_.find(embedding);
    if (a == sources_.end() || b == sources_.end()) return;
    const StoredTensor &own = a->second, &shared = b->second;
    const bool same = own.info->dtype == shared.info->dtype && own.info->shape == shared.info->shape &&
                      std::memcmp(own.file->Data(*own.info), shared.file->Data(*shared.info),
                                  static_cast<size_t>(own.info->bytes)) == 0;
    if (!same) {
      throw Error("TENSOR_UNEXPECTED",
                  own.file->path() + ": tensor \"" + own.info->name +
                      "\" differs from the embedding, to which the configuration ties it");
    }
    own.file->Forget(*own.info);
  }

  void Finish() {
    for (const auto& [name, source] : sources_) {
      const bool buffer = name.find("rotary_emb.inv_freq") != std::string::npos;
      if (used_.count(name) == 0 && !buffer) unexpected_.push_back(source.info->name);
    }
    Fail("TENSOR_MISSING", "missing", missing_);
    Fail("TENSOR_UNEXPECTED", "not of this architecture", unexpected_);
    CheckFinite(std::move(mapped_), [this](int64_t bytes) {
      control_.Check();
      Report(bytes);
    });
    if (done_ < total_) control_.Report({total_, total_, static_cast<double>(used_.size() + 1), NAN});
  }

 private:
  static void CheckShape(const StoredTensor& source, const std::vector<int64_t>& shape) {
    if (source.info->shape == shape) return;
    throw Error("TENSOR_SHAPE", source.file->path() + ": tensor \"" + source.info->name + "\" is " +
                                    ShapeText(source.info->shape) + ", the configuration needs " +
                                    ShapeText(shape));
  }

  void Fail(const char* code, const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    std::string list;
    for (size_t i = 0; i < names.size() && i < 12; ++i) list += (i ? ", " : "") + names[i];
    if (names.size() > 12) list += ", …";
    throw Error(code,
                spec_.files.at(0) + ": " + std::to_string(names.size()) + " tensor(s) " + what + ": " + list);
  }

  void Report(int64_t bytes) {
    done_ += static_cast<double>(bytes);
    control_.Report({done_, total_, static_cast<double>(used_.size()), NAN});
  }

  // The tensor where it lies, kept mapped by what is returned: nothing ever writes to a weight. Nothing when
  // its type or order is another. Its values are not looked at before Finish.
  std::optional<at::Tensor> Mapped(const StoredTensor& source, const std::vector<int64_t>& shape,
                                   at::ScalarType type, int64_t permuted_heads) {
    const DType stored = source.info->dtype;
    const uint8_t* data = source.file->Data(*source.info);
    const bool same = (stored == DType::kF32 && type == at::kFloat) ||
                      (stored == DType::kBF16 && type == at::kBFloat16) ||
                      (stored == DType::kF64 && type == at::kDouble);
    if (!same || permuted_heads > 0 || reinterpret_cast<uintptr_t>(data) % 8 != 0) return std::nullopt;
    mapped_.push_back(source);
    return at::from_blob(
        const_cast<uint8_t*>(data), shape, [file = source.file](void*) {}, at::TensorOptions().dtype(type));
  }

  // The tensor in memory of its own, converted, put in its order and checked.
  at::Tensor Read(const StoredTensor& source, const std::vector<int64_t>& shape, at::ScalarType type,
                  int64_t permuted_heads) {
    const TensorInfo& info = *source.info;
    const uint8_t* data = source.file->Data(info);
    // A vector's permuted heads are made of its elements.
    const int64_t rows = permuted_heads > 0 ? shape[0] : info.Rows();
    const int64_t width = info.Elements() / rows;
    at::Tensor tensor = at::empty(shape, type);
    if (width < info.RowLength() || info.dtype == DType::kF64 || type == at::kDouble) {
      ReadWide(info, data, tensor);
      if (permuted_heads > 0) {
        // GGUF keeps rotary pairs next to each other: [heads, half, 2, in] -> [heads, 2, half, in].
        const int64_t half = shape[0] / permuted_heads / 2;
        tensor = tensor.view({permuted_heads, half, 2, -1}).transpose(1, 2).reshape(shape).contiguous();
      }
      if (!at::isfinite(tensor).all().item<bool>()) FailNotFinite(source);
      return tensor;
    }
    // Converted, put in its place and checked while it is in the cache.
    const int64_t half = permuted_heads > 0 ? rows / permuted_heads / 2 : 0;
    const auto place = [&](int64_t r) {
      return half > 0 ? (r / (2 * half) * 2 + r % 2) * half + r % (2 * half) / 2 : r;
    };
    std::atomic<bool> finite{true};
    at::parallel_for(0, rows, std::max<int64_t>(1, (1 << 16) / width), [&](int64_t b, int64_t e) {
      std::vector<float> row(type == at::kFloat ? 0 : width);
      bool good = true;
      // In pieces, each forgotten before the next: the file and the model are never both resident.
      const int64_t piece = std::max<int64_t>(1, kPieceBytes / static_cast<int64_t>(info.RowBytes()));
      for (int64_t first = b; first < e; first += piece) {
        const int64_t last = std::min(e, first + piece);
        source.file->Prefetch(info, first * info.RowBytes(), last * info.RowBytes());
        for (int64_t r = first; r < last; ++r) {
          if (type == at::kFloat) {
            float* to = tensor.mutable_data_ptr<float>() + place(r) * width;
            Dequantize(info, data, r, 1, to);
            good &= AllFinite(DType::kF32, to, width);
          } else {
            Dequantize(info, data, r, 1, row.data());
            auto* to = static_cast<uint16_t*>(tensor.mutable_data_ptr()) + place(r) * width;
            cpu::SplitBf16(row.data(), width, 1, 1, width, 1, to);
            good &= AllFinite(DType::kBF16, to, width);
          }
        }
        source.file->Forget(info, first * info.RowBytes(), last * info.RowBytes());
      }
      if (!good) finite = false;
    });
    if (!finite) FailNotFinite(source);
    source.file->Forget(info);
    return tensor;
  }

  // Through float64: exact for every type that a file may hold.
  static void ReadWide(const TensorInfo& info, const uint8_t* data, const at::Tensor& tensor) {
    at::Tensor wide;
    if (info.dtype == DType::kF64) {
      wide = at::empty(tensor.sizes(), at::kDouble);
      std::memcpy(wide.mutable_data_ptr(), data, info.bytes);
    } else {
      wide = at::empty(tensor.sizes(), at::kFloat);
      Dequantize(info, data, 0, info.Rows(), wide.mutable_data_ptr<float>());
    }
    tensor.copy_(wide);
  }

  const LoadSpec& spec_;
  const JobControl& control_;
  std::map<std::string, StoredTensor> sources_;
  std::set<std::string> used_, split_;
  std::deque<TensorInfo> parts_;  // of what was taken apart
  std::vector<std::string> missing_, unexpected_;
  std::vector<StoredTensor> mapped_;
  double done_ = 0, total_ = 0;
};

>>>>>>> Stashed changes
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
    weights.CheckTied("lm_head.weight", "model.embed_tokens.weight");
    model->SetHead(model->embedding_);
  } else {
    model->SetHead(weights.Take("lm_head.weight", {config.vocab_size, c}, wide, 0));
  }
  for (const char* name : kRotaryFactors) weights.Ignore(name);
  weights.Finish();
  if (!device.is_cpu()) model->MoveTo(device);
  return model;
}

}  // namespace selfedit
