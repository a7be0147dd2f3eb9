// A model's weights on a device, in the type of its products.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/accelerator.h"
#include "core/model.h"
#include "cuda/kernels/kernels.h"

namespace selfedit::cuda {

at::ScalarType ScalarOf(Type type);

struct DeviceLayer {
  at::Tensor attention_norm, mlp_norm;            // [c]
  at::Tensor post_attention_norm, post_mlp_norm;  // [c]; with post norms
  at::Tensor q_norm, k_norm;                      // [d]; with norms of q and k
  // q, k and v are slices of one tensor [q + 2 kv, c], gate and up of one [2 f, c]: either way of multiplying
  // is open.
  at::Tensor weight[kModulesPerLayer];  // [out, in]
  at::Tensor bias[kModulesPerLayer];    // [out], or undefined
};

class DeviceModel : public DeviceWeights {
 public:
  // Throws DEVICE_UNSUPPORTED for what the kernels cannot compute.
  DeviceModel(const Model& model, at::Device device);

  const Model& host() const { return *model_; }
  const ModelConfig& config() const { return model_->config(); }
  at::Device device() const { return device_; }
  Type type() const { return type_; }
  int64_t type_bytes() const { return TypeSize(type_); }
  // Tensors of the products' type, and of another one.
  at::TensorOptions options() const { return at::TensorOptions().dtype(ScalarOf(type_)).device(device_); }
  at::TensorOptions options(at::ScalarType dtype) const {
    return at::TensorOptions().dtype(dtype).device(device_);
  }
  const DeviceLayer& layer(int64_t index) const { return layers_[index]; }
  const at::Tensor& embedding() const { return embedding_; }
  const at::Tensor& head() const { return head_; }
  const at::Tensor& final_norm() const { return final_norm_; }
  // cos and sin, float [at least `positions`, d / 2], of the configuration's rope or its local one. The
  // caller keeps them while a graph may read them.
  std::pair<at::Tensor, at::Tensor> RopeTables(int64_t positions, bool local) const;
  int64_t bytes() const override { return bytes_; }
  at::Tensor Weight(int64_t id) const override;

 private:
  const Model* model_;
  at::Device device_;
  Type type_;
  at::Tensor embedding_, head_, final_norm_;
  std::vector<DeviceLayer> layers_;
  mutable std::pair<at::Tensor, at::Tensor> rope_tables_[2];  // by `local`
  int64_t bytes_ = 0;
};

}  // namespace selfedit::cuda
