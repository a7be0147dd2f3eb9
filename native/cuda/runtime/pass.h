// One forward pass over the rows of a batch, and its hand-written backward, as core/transformer.h has it:
// into buffers that were made before, so that it can be captured.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <optional>
#include <vector>

#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

// Device memory. Rows are tokens of a batch.
struct RowBatch {
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  int64_t rows = 0;
};

// Changes on top of the weights. Everything is enqueued, nothing waits. What is not overridden changes
// nothing.
class Overlay {
 public:
  virtual ~Overlay() = default;
  // Before each forward pass.
  virtual void Begin() const {}
  // After each backward pass.
  virtual void End() const {}
  // A linear map: y[rows, out] += what the rows see of its change and its bias's, given x [rows, in].
  virtual void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const = 0;
  // dx += … (may be null), and the gradients of trainable values, from the same x and dy.
  virtual void Backward(int64_t, int64_t, const void*, const void*, void*) const {}
  // The embedding: y[rows, c] += rows of its change; gradients of its values from dy.
  virtual void EmbedForward(const RowBatch&, void*) const {}
  virtual void EmbedBackward(const RowBatch&, const void*) const {}
  // The head, on rows [begin, begin + count) of the batch: x [count, c] and what comes of it, logits [count,
  // V] in float. The backward follows its forward, before the next rows; dlogits of the products' type.
  virtual void HeadForward(int64_t, int64_t, const void*, float*) const {}
  virtual void HeadBackward(int64_t, int64_t, const void*, const void*, void*) const {}
  // A norm: what is added to its gain, all that lies below this overlay included; its gradient from the
  // norm's input, rstd and dy, of one or more heads a row (id, rows, heads, x, rstd, dy).
  virtual NormGain Gain(int64_t) const { return {}; }
  virtual void GainBackward(int64_t, int64_t, int64_t, const void*, const float*, const void*) const {}
  // Of any weight.
  virtual bool Trains(int64_t) const { return false; }
};
using Overlays = std::vector<const Overlay*>;

// Attention of one layer, q, k, v after the rotation; lse may be undefined.
struct LayerAttention {
  int64_t layer = 0;
  at::Tensor q, k, v, out, lse;
};
using AttentionFunction = std::function<void(const LayerAttention&)>;

class Pass {
 public:
  // For up to `rows` rows of positions below `positions`. lowest: layer of the lowest weight under training
  // (-1: the embedding; the number of layers: only what comes after them), where a backward ends; none: no
  // backward.
  Pass(const DeviceModel& model, int64_t rows, int64_t positions, std::optional<int64_t> lowest);
  static int64_t Bytes(const DeviceModel& model, int64_t rows, int64_t recorded_layers);

  // After it hidden() holds the states behind the last norm.
  void Forward(const RowBatch& batch, const Overlays& overlays, const AttentionFunction& attention);
  // From dhidden() downwards; the gradients go to the overlays.
  void Backward(const RowBatch& batch, const Overlays& overlays, const AttentionShape& attention);

  const at::Tensor& hidden() const { return hidden_; }
  const at::Tensor& dhidden() const { return dhidden_; }
  const DeviceModel& model() const { return model_; }
  // Of documents in these rows; q, k and v each contiguous; without a layer's window.
  AttentionShape Shape(const int32_t* document_offsets, int64_t documents, int64_t rows) const;
  // Attention of a layer over documents of this shape.
  void Attend(const AttentionShape& shape, const LayerAttention& attention) const;

 private:
  struct Layer {
    at::Tensor x0, h0, q, k, v, mixed, x1, h1, gate, up;
    at::Tensor rstd0, lse, rstd1;
    // Only where the model has such norms: their inputs and 1 / rms.
    at::Tensor plain_q, rstd_q, plain_k, rstd_k, attended, rstd_attended, mapped, rstd_mapped;
  };
  Layer MakeLayer(bool record) const;
  // x0 (+ residual, may be null) -> x1, and what the next norm adds to it -> next.
  void ForwardLayer(int64_t layer, const RowBatch& batch, const void* residual, const at::Tensor& next,
                    const Overlays& overlays, const AttentionFunction& attention) const;
  void BackwardLayers(const RowBatch& batch, const Overlays& overlays, const AttentionShape& attention);
  // dx_ after the layer becomes that before it; not when `last`, below which nothing is trained.
  void BackwardLayer(int64_t layer, const RowBatch& batch, const Overlays& overlays,
                     const AttentionShape& attention, bool last) const;
  void ScaleEmbedded(const at::Tensor& x, int64_t rows) const;
  void Project(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& y,
               const Overlays& overlays) const;
  // dx (+)= dy W + the overlays' part. dx may be undefined: only the gradients of values.
  void ProjectBackward(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& dy,
                       bool accumulate, const at::Tensor& dx, const Overlays& overlays) const;
  // x (+ residual) normed into y, and the gradient of that; a row of x is one or more (heads) times the gain.
  void Norm(int64_t id, int64_t rows, const at::Tensor& x, const void* residual, const at::Tensor& weight,
            const at::Tensor& y, const at::Tensor& rstd, const Overlays& overlays) const;
  // dx may be undefined: only the gradient of the gain.
  void NormBackward(int64_t id, int64_t rows, const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& rstd, const at::Tensor& dy, bool accumulate, const at::Tensor& dx,
                    const Overlays& overlays) const;
  // The gradient before the norm between a block and the residual; dx_ itself where the model has none.
  const at::Tensor& AfterNormBackward(int64_t id, int64_t rows, const at::Tensor& taken,
                                      const at::Tensor& weight, const at::Tensor& rstd,
                                      const Overlays& overlays) const;
  void Rotate(int64_t layer, const RowBatch& batch, const at::Tensor& x, int sign) const;
  // act_ = activation(gate) up
  void Gate(const Layer& layer, int64_t rows) const;

  const DeviceModel& model_;
  int64_t rows_;
  std::optional<int64_t> lowest_;
  std::vector<Layer> layers_;  // those not recorded take turns with two sets of buffers
  at::Tensor act_, x_, rstd_, hidden_;
  at::Tensor dhidden_, dx_, dh_, dblock_, dact_, dmixed_, dq_, dk_, dv_, delta_;
  std::pair<at::Tensor, at::Tensor> global_, local_;  // tables of the rotation
};

}  // namespace selfedit::cuda
