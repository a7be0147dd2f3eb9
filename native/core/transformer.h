// The fixed transformer graph over a ragged batch: forward, and a hand-written backward to the delta values.
// The base is frozen, so the backward computes input gradients only: 4, not 6, operations per parameter and
// token.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "core/model.h"
#include "core/overlay.h"

namespace selfedit {

// Attention of one layer: q [n, H d], k and v [n, G d] after the rotation -> out [n, H d]; lse as in
// cpu/kernels.h, may be undefined.
class Attention {
 public:
  virtual ~Attention() = default;
  virtual void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const at::Tensor& out, const at::Tensor& lse) = 0;
};

// Causal within each document, nothing across documents. attended (a document each; empty: all tokens): how
// many of its first tokens are attended to, as in cpu/kernels.h.
class RaggedAttention : public Attention {
 public:
  RaggedAttention(const ModelConfig& config, const std::vector<int32_t>& offsets,
                  std::vector<int32_t> attended = {})
      : config_(config), offsets_(offsets), attended_(std::move(attended)) {}
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override;
  void Backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                const at::Tensor& lse, const at::Tensor& dout, const at::Tensor& dq, const at::Tensor& dk,
                const at::Tensor& dv) const;

 private:
  const int32_t* Attended() const { return attended_.empty() ? nullptr : attended_.data(); }
  const ModelConfig& config_;
  const std::vector<int32_t>& offsets_;
  const std::vector<int32_t> attended_;
};

// What the backward needs of one layer. All [n, ·].
struct LayerTape {
  at::Tensor x0, rstd0, h0;  // layer input, its norm
  at::Tensor q, k, v, attention, lse;
  at::Tensor x1, rstd1, h1;  // after attention, its norm
  at::Tensor gate, up;
};
struct Tape {
  int64_t first_layer = 0;  // layers below are not recorded
  std::vector<LayerTape> layers;
  at::Tensor x, rstd;  // input of the last norm
};

// Hidden states after the last norm, [n, hidden]. positions int32 [n]. tape may be null.
at::Tensor TransformerForward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                              const OverlayPlan& plan, Attention& attention, Tape* tape);

// Adds the gradients of all trainable segments, given dhidden [n, hidden]. Stops at the lowest trainable
// layer.
void TransformerBackward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                         const OverlayPlan& plan, const RaggedAttention& attention, const Tape& tape,
                         const at::Tensor& dhidden);

// tokens and positions (0 … length − 1 of each document) of a ragged batch as tensors.
at::Tensor TokenTensor(const Ragged& batch);
at::Tensor PositionTensor(const std::vector<int32_t>& offsets);

}  // namespace selfedit
