// One forward pass over the rows of a batch, and its hand-written backward, as core/transformer.h has it:
// into buffers that were made before, so that it can be captured.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

// Changes on top of the linear maps. Everything is enqueued, nothing waits.
class Overlay {
 public:
  virtual ~Overlay() = default;
  // y[rows, out] += what the rows see of the matrix's change of x [rows, in].
  virtual void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const = 0;
  // dx += …(may be null), and the gradients of trainable values, from the same x and dy.
  virtual void Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const = 0;
  virtual bool Trains(int64_t) const { return false; }
};
using Overlays = std::vector<const Overlay*>;

// Device memory. Rows are tokens of a batch.
struct RowBatch {
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  int64_t rows = 0;
};

// Attention of one layer, q, k, v after the rotation; lse may be undefined.
struct LayerAttention {
  int64_t layer = 0;
  at::Tensor q, k, v, out, lse;
};
using AttentionFunction = std::function<void(const LayerAttention&)>;

class Pass {
 public:
  // For up to `rows` rows of positions below `positions`. Layers from `first_recorded` on keep what the
  // backward needs (the number of layers: none).
  Pass(const DeviceModel& model, int64_t rows, int64_t positions, int64_t first_recorded);
  static int64_t Bytes(const DeviceModel& model, int64_t rows, int64_t recorded_layers);

  // After it hidden() holds the states behind the last norm.
  void Forward(const RowBatch& batch, const Overlays& overlays, const AttentionFunction& attention);
  // From dhidden() down to layer first_recorded; the gradients go to the overlays.
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
  void Project(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& y,
               const Overlays& overlays) const;
  // dx (+)= dy W + the overlays' part. dx may be undefined: only the gradients of values.
  void ProjectBackward(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& dy,
                       bool accumulate, const at::Tensor& dx, const Overlays& overlays) const;
  void Rotate(const RowBatch& batch, const at::Tensor& x, int sign) const;

  const DeviceModel& model_;
  int64_t rows_, first_recorded_;
  std::vector<Layer> layers_;  // those not recorded take turns with two sets of buffers
  at::Tensor act_, x_, rstd_, hidden_;
  at::Tensor dhidden_, dx_, dh_, dact_, dmixed_, dq_, dk_, dv_, delta_;
  at::Tensor cos_, sin_;
};

}  // namespace selfedit::cuda
