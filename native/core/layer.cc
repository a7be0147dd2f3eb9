#include "core/layer.h"

#include "cpu/kernels.h"

namespace selfedit {

at::Tensor Norm(const OverlayPlan& plan, int64_t id, const at::Tensor& x, const at::Tensor& weight,
                double eps, const at::Tensor& rstd) {
  at::Tensor y = at::empty_like(x);
  Typed(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t c = weight.size(0), heads = x.size(1) / c;
    auto rows = [&](int64_t begin, int64_t end, const at::Tensor& gain) {
      begin *= heads, end *= heads;
      cpu::RmsNormForward<T>(x.const_data_ptr<T>() + begin * c, gain.const_data_ptr<T>(), end - begin, c,
                             T(eps), y.mutable_data_ptr<T>() + begin * c,
                             rstd.defined() ? rstd.mutable_data_ptr<T>() + begin : nullptr);
    };
    if (!plan.Touches(id)) return rows(0, x.size(0), weight);
    for (const VectorSegment& s : plan.Vectors(id, weight)) rows(s.begin, s.end, s.value);
  });
  return y;
}

void NormBackward(const OverlayPlan& plan, int64_t id, const at::Tensor& x, const at::Tensor& weight,
                  const at::Tensor& rstd, const at::Tensor& dy, bool accumulate, const at::Tensor& dx) {
  const int64_t c = weight.size(0), heads = x.size(1) / c;
  if (plan.Trains(id)) {
    const at::Tensor slope = at::mul(dy, x).view({-1, c}).mul_(rstd.unsqueeze(1));
    plan.VectorBackward(id, heads == 1 ? slope : slope.view({-1, heads, c}).sum(1));
  }
  if (!dx.defined()) return;
  Typed(x, [&](auto zero) {
    using T = decltype(zero);
    auto rows = [&](int64_t begin, int64_t end, const at::Tensor& gain) {
      begin *= heads, end *= heads;
      cpu::RmsNormBackward<T>(x.const_data_ptr<T>() + begin * c, gain.const_data_ptr<T>(),
                              rstd.const_data_ptr<T>() + begin, dy.const_data_ptr<T>() + begin * c,
                              end - begin, c, accumulate, dx.mutable_data_ptr<T>() + begin * c);
    };
    if (!plan.Touches(id)) return rows(0, x.size(0), weight);
    for (const VectorSegment& s : plan.Vectors(id, weight)) rows(s.begin, s.end, s.value);
  });
}

void Rotate(const at::Tensor& x, const at::Tensor& positions, const std::pair<at::Tensor, at::Tensor>& tables,
            int64_t head_dim, int sign) {
  Typed(x, [&](auto zero) {
    using T = decltype(zero);
    cpu::Rope<T>(x.mutable_data_ptr<T>(), positions.const_data_ptr<int32_t>(),
                 tables.first.const_data_ptr<T>(), tables.second.const_data_ptr<T>(), x.size(0),
                 x.size(1) / head_dim, head_dim, sign);
  });
}

at::Tensor Project(const Model& model, const OverlayPlan& plan, int64_t layer, Module module,
                   const at::Tensor& x) {
  const int64_t id = MatrixId(layer, module);
  const Linear& linear = model.linear(id);
  at::Tensor y = plan.ReplacesAll(id) ? at::empty({x.size(0), linear.out()}, x.options()) : linear.Forward(x);
  plan.ForwardReplaced(id, x, y);
  plan.Forward(id, x, y);
  const int64_t bias = model.ids().bias[id];
  if (bias >= 0 && plan.Touches(bias)) {
    for (const VectorSegment& s : plan.Vectors(bias, at::zeros({y.size(1)}, y.options()))) {
      y.narrow(0, s.begin, s.end - s.begin).add_(s.value);
    }
  }
  return y;
}

void DeltasBackward(const Model& model, const OverlayPlan& plan, int64_t id, const at::Tensor& x,
                    const at::Tensor& dy, const at::Tensor& dx) {
  plan.Backward(id, x, dy, dx);
  const int64_t bias = model.ids().bias[id];
  if (bias >= 0) plan.VectorBackward(bias, dy);
}

at::Tensor ProjectBackward(const Model& model, const OverlayPlan& plan, int64_t layer, Module module,
                           const at::Tensor& x, const at::Tensor& dy) {
  const int64_t id = MatrixId(layer, module);
  at::Tensor dx = model.linear(id).BackwardInput(dy);
  DeltasBackward(model, plan, id, x, dy, dx);
  return dx;
}

at::Tensor Gated(const ModelConfig& config, const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty_like(gate);
  Typed(gate, [&](auto zero) {
    using T = decltype(zero);
    const auto forward =
        config.activation == Activation::kSilu ? cpu::SwiGluForward<T> : cpu::GeGluForward<T>;
    forward(gate.const_data_ptr<T>(), up.const_data_ptr<T>(), gate.numel(), y.mutable_data_ptr<T>());
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> GatedBackward(const ModelConfig& config, const at::Tensor& gate,
                                                const at::Tensor& up, const at::Tensor& dy) {
  at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  Typed(dy, [&](auto zero) {
    using T = decltype(zero);
    const auto backward =
        config.activation == Activation::kSilu ? cpu::SwiGluBackward<T> : cpu::GeGluBackward<T>;
    backward(gate.const_data_ptr<T>(), up.const_data_ptr<T>(), dy.const_data_ptr<T>(), dy.numel(),
             dgate.mutable_data_ptr<T>(), dup.mutable_data_ptr<T>());
  });
  return {dgate, dup};
}

}  // namespace selfedit
