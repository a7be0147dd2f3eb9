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
  // norm's input, rstd and dy.
  virtual NormGain Gain(int64_t) const { return {}; }
  virtual void GainBackward(int64_t, int64_t, const void*, const float*, const void*) const {}
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
  // Of documents in these rows; q, k and v each contiguous.
  AttentionShape Shape(const int32_t* document_offsets, int64_t documents, int64_t rows) const;

 private:
  struct Layer {
    at::Tensor x0, h0, q, k, v, mixed, x1, h1, gate, up;
    at::Tensor rstd0, lse, rstd1;
  };
  Layer MakeLayer(bool record) const;
  void BackwardLayers(const RowBatch& batch, const Overlays& overlays, const AttentionShape& attention);
  void Project(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& y,
               const Overlays& overlays) const;
  // dx (+)= dy W + the overlays' part. dx may be undefined: only the gradients of values.
  void ProjectBackward(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& dy,
                       bool accumulate, const at::Tensor& dx, const Overlays& overlays) const;
  // x (+ residual) normed into y, and the gradient of that.
  void Norm(int64_t id, int64_t rows, const at::Tensor& x, const void* residual, const at::Tensor& weight,
            const at::Tensor& y, const at::Tensor& rstd, const Overlays& overlays) const;
  // dx may be undefined: only the gradient of the gain.
  void NormBackward(int64_t id, int64_t rows, const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& rstd, const at::Tensor& dy, bool accumulate, const at::Tensor& dx,
                    const Overlays& overlays) const;
  void Rotate(const RowBatch& batch, const at::Tensor& x, int sign) const;

  const DeviceModel& model_;
  int64_t rows_;
  std::optional<int64_t> lowest_;
  std::vector<Layer> layers_;  // those not recorded take turns with two sets of buffers
  at::Tensor act_, x_, rstd_, hidden_;
  at::Tensor dhidden_, dx_, dh_, dact_, dmixed_, dq_, dk_, dv_, delta_;
  at::Tensor cos_, sin_;
};

}  // namespace selfedit::cuda
