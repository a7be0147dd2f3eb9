// The steps of one layer, forward and backward: norms, rotation, projections, gating; each row under its own
// deltas.
#pragma once
#include <ATen/ATen.h>

#include <utility>

#include "core/model.h"
#include "core/overlay.h"

namespace selfedit {

// body(T{}) with T the type of `like`: float or double.
template <typename F>
void Typed(const at::Tensor& like, F&& body) {
  if (like.scalar_type() == at::kDouble) {
    body(double{});
  } else {
    body(float{});
  }
}

// y = x rstd w with each row's own gain w [c]; a row of x is one or more (heads) times c. rstd [rows * heads]
// is filled when defined.
at::Tensor Norm(const OverlayPlan& plan, int64_t id, const at::Tensor& x, const at::Tensor& weight,
                double eps, const at::Tensor& rstd);
// dx (+= when accumulate, else =; may be undefined), and the gradients of the gain's deltas.
void NormBackward(const OverlayPlan& plan, int64_t id, const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& rstd, const at::Tensor& dy, bool accumulate, const at::Tensor& dx);

// In place on x [n, heads * head_dim]; sign -1 is the gradient.
void Rotate(const at::Tensor& x, const at::Tensor& positions, const std::pair<at::Tensor, at::Tensor>& tables,
            int64_t head_dim, int sign);

at::Tensor Project(const Model& model, const OverlayPlan& plan, int64_t layer, Module module,
                   const at::Tensor& x);
// Gradients of the values of a projection's deltas, its bias's too; adds to dx when defined.
void DeltasBackward(const Model& model, const OverlayPlan& plan, int64_t id, const at::Tensor& x,
                    const at::Tensor& dy, const at::Tensor& dx);
// dx of one projection, and the gradients of its deltas. x is the projection's input.
at::Tensor ProjectBackward(const Model& model, const OverlayPlan& plan, int64_t layer, Module module,
                           const at::Tensor& x, const at::Tensor& dy);

// activation(gate) * up.
at::Tensor Gated(const ModelConfig& config, const at::Tensor& gate, const at::Tensor& up);
// {dgate, dup} of Gated, given dy.
std::pair<at::Tensor, at::Tensor> GatedBackward(const ModelConfig& config, const at::Tensor& gate,
                                                const at::Tensor& up, const at::Tensor& dy);

}  // namespace selfedit
