// The fixed transformer graph over a ragged batch: forward, and a hand-written backward to the delta values.
// The base is frozen, so the backward computes input gradients only: 4, not 6, operations per parameter and
// token.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "core/attention.h"
#include "core/model.h"
#include "core/overlay.h"

namespace selfedit {

// What the backward needs of one layer. All [n, ·].
struct LayerTape {
  at::Tensor x0, rstd0, h0;  // layer input, its norm
  at::Tensor q, k, v, attention, lse;
  at::Tensor x1, rstd1, h1;  // after attention, its norm
  at::Tensor gate, up;
  // Only where the model has such norms: their inputs and 1 / rms.
  at::Tensor plain_q, rstd_q, plain_k, rstd_k;              // [n, H d], [n H], [n, G d], [n G]
  at::Tensor attended, rstd_attended, mapped, rstd_mapped;  // of the attention's and the MLP's output
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
