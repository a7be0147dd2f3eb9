// Immutable weights on one device, shared by every fork.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/linear.h"
#include "core/types.h"

namespace selfedit {

class DeviceWeights;
class TensorFile;
struct SpectralFactors;

struct LayerWeights {
  at::Tensor attention_norm, mlp_norm;            // [hidden]
  at::Tensor post_attention_norm, post_mlp_norm;  // [hidden]; with post norms
  at::Tensor q_norm, k_norm;                      // [head_dim]; with norms of q and k
  Linear linear[kModulesPerLayer];                // by Module
};

struct LoadSpec {
  ModelConfig config;
  std::vector<std::string> files;  // one GGUF file, or safetensors shards
  bool gguf = false;
  bool permuted_qk = false;  // GGUF stores Llama's q and k rows permuted
  int64_t norm_offset = 0;   // gains are stored without this much (Gemma's safetensors)
  bool fused = false;        // q, k and v are one matrix, gate and up too (Phi-3)
  Dtype dtype = Dtype::kFloat32;
  std::string device = "cpu";
};

class Model {
 public:
  static std::shared_ptr<Model> Load(const LoadSpec& spec, const JobControl& control);
  // Seeded normal weights (norms 1, biases 0): for tests and for benchmark shapes.
  static std::shared_ptr<Model> Random(const ModelConfig& config, Dtype dtype, uint64_t key, double std);

  const ModelConfig& config() const { return config_; }
  // The linear maps, by id; and all that deltas can change (the same ids first).
  const std::vector<MatrixInfo>& matrices() const { return matrices_; }
  const std::vector<MatrixInfo>& tensors() const { return tensors_; }
  const TensorIds& ids() const { return ids_; }
  Dtype dtype() const { return dtype_; }
  // Type of activations, deltas and log-probs: float64 for a float64 model, else float32.
  at::ScalarType activation() const { return dtype_ == Dtype::kFloat64 ? at::kDouble : at::kFloat; }
  at::TensorOptions options() const { return at::TensorOptions().dtype(activation()); }
  const std::string& device() const { return device_; }
  // Null for a model on the CPU; see core/accelerator.h.
  const std::shared_ptr<const DeviceWeights>& device_weights() const { return device_weights_; }
  int64_t parameters() const;
  int64_t bytes() const;
  const LayerWeights& layer(int64_t index) const { return layers_[index]; }
  const Linear& linear(int64_t matrix) const {
    return layers_[matrix / kModulesPerLayer].linear[matrix % kModulesPerLayer];
  }
  const Linear& head() const { return head_; }
  const at::Tensor& final_norm() const { return final_norm_; }
  // The present weight of any id of tensors(), on the host: [out, in], vectors as [1, in].
  at::Tensor Weight(int64_t id) const;
  at::Tensor Embed(const at::Tensor& tokens) const;  // int32 [n] -> [n, hidden]
  // Cosines and sines [positions, head_dim / 2], of the configuration's rope or its local one; grown on
  // demand to cover `positions`.
  std::pair<at::Tensor, at::Tensor> RopeTables(int64_t positions, bool local) const;
  // SHA-256 over names, shapes and bytes of every weight: equal models have equal fingerprints.
  std::string Fingerprint(const JobControl& control) const;

  // Factors made so far, by (matrix, rank); see core/spectral.h. Compute thread only.
  using SpectralMap = std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const SpectralFactors>>;
  SpectralMap& spectral_factors() const { return spectral_; }

  // Byte string of every token id, for stop strings.
  void SetTokenBytes(std::vector<uint8_t> bytes, std::vector<int32_t> offsets);
  bool has_token_bytes() const { return !token_offsets_.empty(); }
  std::string_view TokenBytes(int32_t token) const;

 private:
  struct NamedTensor {
    std::string name;
    const at::Tensor* tensor;
  };
  std::vector<NamedTensor> Named() const;
  // The gain of an id of tensors(), null when it is not one.
  at::Tensor* Gain(const MatrixInfo& info);
  const at::Tensor* Gain(const MatrixInfo& info) const { return const_cast<Model*>(this)->Gain(info); }
  void SetHead(at::Tensor weight);

  ModelConfig config_;
  void SetConfig(const ModelConfig& config);
  // Uploads the weights and frees the host's copies of the large ones.
  void MoveTo(at::Device device);
  std::vector<MatrixInfo> matrices_, tensors_;
  TensorIds ids_;
  Dtype dtype_ = Dtype::kFloat32;
  std::string device_ = "cpu";
  std::shared_ptr<const DeviceWeights> device_weights_;
  at::Tensor embedding_;  // [vocab, hidden]
  at::Tensor final_norm_;
  std::vector<LayerWeights> layers_;
  Linear head_;  // float32 products also under bfloat16 weights: bfloat16 logits near 20 would be 0.125 apart
  mutable SpectralMap spectral_;
  mutable std::pair<at::Tensor, at::Tensor> rope_tables_[2];  // by `local`
  std::vector<uint8_t> token_bytes_;
  std::vector<int32_t> token_offsets_;
};

}  // namespace selfedit
