#include "cuda/runtime/device_model.h"

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

Type TypeOf(const Model& model) {
  switch (model.dtype()) {
    case Dtype::kFloat32:
      return Type::kFloat32;
    case Dtype::kBFloat16:
      return Type::kBFloat16;
    default:
      throw Error("DEVICE_UNSUPPORTED",
                  std::string("a GPU computes in float32 or bfloat16; the model's type is ") +
                      DtypeName(model.dtype()) + "; load it on the CPU");
  }
}

}  // namespace

at::ScalarType ScalarOf(Type type) {
  return type == Type::kFloat32 ? at::kFloat : type == Type::kBFloat16 ? at::kBFloat16 : at::kHalf;
}

DeviceModel::DeviceModel(const Model& model, at::Device device)
    : model_(&model), device_(device), type_(TypeOf(model)) {
  const ModelConfig& config = model.config();
  const int64_t d = config.head_dim;
  if (d % 8 != 0 || d < 16 || d > kMostHeadSize) {
    throw Error("DEVICE_UNSUPPORTED", "the head size is " + std::to_string(d) +
                                          "; a GPU computes with a multiple of 8 from 16 to " +
                                          std::to_string(kMostHeadSize));
  }
  if (config.vocab_size > kMostVocabulary) {
    throw Error("DEVICE_UNSUPPORTED", "the vocabulary has " + std::to_string(config.vocab_size) +
                                          " tokens; a GPU computes with up to " +
                                          std::to_string(kMostVocabulary));
  }
  const DeviceScope scope(device);
  auto take = [&](const at::Tensor& weight) {
    at::Tensor made = Upload(weight.contiguous().to(ScalarOf(type_)), device);
    bytes_ += static_cast<int64_t>(made.nbytes());
    return made;
  };
  embedding_ = take(model.Weight(model.ids().embedding));
  head_ = config.tied ? embedding_ : take(model.head().weight());
  final_norm_ = take(model.final_norm());
  layers_.resize(config.layers);
  for (int64_t l = 0; l < config.layers; ++l) {
    const LayerWeights& from = model.layer(l);
    DeviceLayer& to = layers_[l];
    to.attention_norm = take(from.attention_norm);
    to.mlp_norm = take(from.mlp_norm);
    if (config.post_norms) {
      to.post_attention_norm = take(from.post_attention_norm);
      to.post_mlp_norm = take(from.post_mlp_norm);
    }
    if (config.qk_norm) {
      to.q_norm = take(from.q_norm);
      to.k_norm = take(from.k_norm);
    }
    auto merge = [&](std::initializer_list<Module> modules) {
      int64_t out = 0, in = 0;
      for (const Module m : modules) {
        const at::Tensor& weight = from.linear[static_cast<int>(m)].weight();
        out += weight.size(0);
        in = weight.size(1);
      }
      const at::Tensor merged = at::empty({out, in}, options());
      bytes_ += static_cast<int64_t>(merged.nbytes());
      int64_t row = 0;
      for (const Module m : modules) {
        const Linear& linear = from.linear[static_cast<int>(m)];
        const at::Tensor slice = merged.narrow(0, row, linear.out());
        UploadInto(linear.weight().to(ScalarOf(type_)), slice);
        row += linear.out();
        to.weight[static_cast<int>(m)] = slice;
        if (linear.bias()) to.bias[static_cast<int>(m)] = take(*linear.bias());
      }
    };
    merge({Module::kQ, Module::kK, Module::kV});
    merge({Module::kO});
    merge({Module::kGate, Module::kUp});
    merge({Module::kDown});
  }
  Synchronise();
  CheckDevice();
}

at::Tensor DeviceModel::Weight(int64_t id) const {
  const MatrixInfo& info = model_->tensors().at(id);
  if (info.module == Module::kEmbedding) return embedding_;
  if (info.module == Module::kHead) return head_;
  return layers_[info.layer].weight[static_cast<int>(info.module)];
}

std::pair<at::Tensor, at::Tensor> DeviceModel::RopeTables(int64_t positions, bool local) const {
  auto& [cos, sin] = rope_tables_[local];
  if (!cos.defined() || cos.size(0) < positions) {
    const auto tables = model_->RopeTables(positions, local);
    cos = Upload(tables.first, device_);
    sin = Upload(tables.second, device_);
  }
  return {cos, sin};
}

}  // namespace selfedit::cuda
