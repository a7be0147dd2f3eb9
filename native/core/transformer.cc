#include "core/transformer.h"

#include <cmath>

#include "cpu/kernels.h"

namespace selfedit {
namespace {

template <typename F>
void Typed(const at::Tensor& like, F&& body) {
  if (like.scalar_type() == at::kDouble) {
    body(double{});
  } else {
    body(float{});
  }
}

// y = x rstd w with each row's own gain w; rstd is filled when defined.
at::Tensor Norm(const OverlayPlan& plan, int64_t id, const at::Tensor& x, const at::Tensor& weight,
                double eps, const at::Tensor& rstd) {
  at::Tensor y = at::empty_like(x);
  Typed(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t c = x.size(1);
    auto rows = [&](int64_t begin, int64_t end, const at::Tensor& gain) {
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
  if (plan.Trains(id)) plan.VectorBackward(id, at::mul(dy, x).mul_(rstd.unsqueeze(1)));
  if (!dx.defined()) return;
  Typed(x, [&](auto zero) {
    using T = decltype(zero);
    const int64_t c = x.size(1);
    auto rows = [&](int64_t begin, int64_t end, const at::Tensor& gain) {
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

// Gradients of the values of a projection's deltas, its bias's too; adds to dx when defined.
void DeltasBackward(const Model& model, const OverlayPlan& plan, int64_t id, const at::Tensor& x,
                    const at::Tensor& dy, const at::Tensor& dx) {
  plan.Backward(id, x, dy, dx);
  const int64_t bias = model.ids().bias[id];
  if (bias >= 0) plan.VectorBackward(bias, dy);
}

// dx of one projection, and the gradients of its deltas. x is the projection's input.
at::Tensor ProjectBackward(const Model& model, const OverlayPlan& plan, int64_t layer, Module module,
                           const at::Tensor& x, const at::Tensor& dy) {
  const int64_t id = MatrixId(layer, module);
  at::Tensor dx = model.linear(id).BackwardInput(dy);
  DeltasBackward(model, plan, id, x, dy, dx);
  return dx;
}

at::Tensor Gated(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty_like(gate);
  Typed(gate, [&](auto zero) {
    using T = decltype(zero);
    cpu::SwiGluForward<T>(gate.const_data_ptr<T>(), up.const_data_ptr<T>(), gate.numel(),
                          y.mutable_data_ptr<T>());
  });
  return y;
}

}  // namespace

void RaggedAttention::Forward(int64_t, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& out, const at::Tensor& lse) {
  Typed(q, [&](auto zero) {
    using T = decltype(zero);
    cpu::AttentionForward<T>(q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                             offsets_.data(), Attended(), static_cast<int64_t>(offsets_.size()) - 1,
                             config_.heads, config_.kv_heads, config_.head_dim,
                             T(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
                             out.mutable_data_ptr<T>(), lse.defined() ? lse.mutable_data_ptr<T>() : nullptr);
  });
}

void RaggedAttention::Backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor& lse, const at::Tensor& dout,
                               const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) const {
  Typed(q, [&](auto zero) {
    using T = decltype(zero);
    cpu::AttentionBackward<T>(q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                              out.const_data_ptr<T>(), lse.const_data_ptr<T>(), dout.const_data_ptr<T>(),
                              offsets_.data(), Attended(), static_cast<int64_t>(offsets_.size()) - 1,
                              config_.heads, config_.kv_heads, config_.head_dim,
                              T(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
                              dq.mutable_data_ptr<T>(), dk.mutable_data_ptr<T>(), dv.mutable_data_ptr<T>());
  });
}

at::Tensor TransformerForward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                              const OverlayPlan& plan, Attention& attention, Tape* tape) {
  const ModelConfig& config = model.config();
  const int64_t n = tokens.size(0);
  const auto options = model.options();
  const auto tables = model.RopeTables(n == 0 ? 1 : positions.max().item<int>() + 1);
  const TensorIds& ids = model.ids();
  at::Tensor x = model.Embed(tokens);
  plan.EmbedForward(ids.embedding, tokens, x);
  if (tape != nullptr) {
    tape->first_layer = std::max<int64_t>(0, plan.lowest_trainable_layer());
    tape->layers.assign(config.layers, {});
  }
  for (int64_t l = 0; l < config.layers; ++l) {
    const bool record = tape != nullptr && l >= tape->first_layer;
    const LayerWeights& weights = model.layer(l);
    at::Tensor rstd0, rstd1, lse;
    if (record) {
      rstd0 = at::empty({n}, options);
      rstd1 = at::empty({n}, options);
      lse = at::empty({n, config.heads}, options);
    }
    at::Tensor h0 = Norm(plan, ids.attention_norm[l], x, weights.attention_norm, config.rms_eps, rstd0);
    at::Tensor q = Project(model, plan, l, Module::kQ, h0);
    at::Tensor k = Project(model, plan, l, Module::kK, h0);
    at::Tensor v = Project(model, plan, l, Module::kV, h0);
    Rotate(q, positions, tables, config.head_dim, +1);
    Rotate(k, positions, tables, config.head_dim, +1);
    at::Tensor mixed = at::empty_like(q);
    attention.Forward(l, q, k, v, mixed, lse);
    at::Tensor x1 = Project(model, plan, l, Module::kO, mixed).add_(x);
    at::Tensor h1 = Norm(plan, ids.mlp_norm[l], x1, weights.mlp_norm, config.rms_eps, rstd1);
    at::Tensor gate = Project(model, plan, l, Module::kGate, h1);
    at::Tensor up = Project(model, plan, l, Module::kUp, h1);
    at::Tensor next = Project(model, plan, l, Module::kDown, Gated(gate, up)).add_(x1);
    if (record) tape->layers[l] = {x, rstd0, h0, q, k, v, mixed, lse, x1, rstd1, h1, gate, up};
    x = next;
  }
  at::Tensor rstd;
  if (tape != nullptr) {
    rstd = at::empty({n}, options);
    tape->x = x;
    tape->rstd = rstd;
  }
  return Norm(plan, ids.final_norm, x, model.final_norm(), config.rms_eps, rstd);
}

void TransformerBackward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                         const OverlayPlan& plan, const RaggedAttention& attention, const Tape& tape,
                         const at::Tensor& dhidden) {
  const ModelConfig& config = model.config();
  if (!plan.trainable()) return;
  const TensorIds& ids = model.ids();
  const int64_t lowest = plan.lowest_trainable_layer();
  const auto tables = model.RopeTables(positions.max().item<int>() + 1);
  at::Tensor dx = lowest < config.layers ? at::empty_like(dhidden) : at::Tensor();
  NormBackward(plan, ids.final_norm, tape.x, model.final_norm(), tape.rstd, dhidden, false, dx);
  for (int64_t l = config.layers - 1; l >= tape.first_layer; --l) {
    const LayerTape& t = tape.layers[l];
    const LayerWeights& weights = model.layer(l);

    // x2 = x1 + down(silu(gate) up)
    at::Tensor da =
        ProjectBackward(model, plan, l, Module::kDown,
                        plan.Touches(MatrixId(l, Module::kDown)) ? Gated(t.gate, t.up) : at::Tensor(), dx);
    at::Tensor dgate = at::empty_like(t.gate), dup = at::empty_like(t.up);
    Typed(da, [&](auto zero) {
      using T = decltype(zero);
      cpu::SwiGluBackward<T>(t.gate.const_data_ptr<T>(), t.up.const_data_ptr<T>(), da.const_data_ptr<T>(),
                             da.numel(), dgate.mutable_data_ptr<T>(), dup.mutable_data_ptr<T>());
    });
    at::Tensor dh = ProjectBackward(model, plan, l, Module::kGate, t.h1, dgate);
    dh.add_(ProjectBackward(model, plan, l, Module::kUp, t.h1, dup));
    NormBackward(plan, ids.mlp_norm[l], t.x1, weights.mlp_norm, t.rstd1, dh, true, dx);

    // x1 = x0 + o(attention(rope q, rope k, v))
    at::Tensor dmixed = ProjectBackward(model, plan, l, Module::kO, t.attention, dx);
    at::Tensor dq = at::empty_like(t.q), dk = at::empty_like(t.k), dv = at::empty_like(t.v);
    attention.Backward(t.q, t.k, t.v, t.attention, t.lse, dmixed.contiguous(), dq, dk, dv);
    Rotate(dq, positions, tables, config.head_dim, -1);
    Rotate(dk, positions, tables, config.head_dim, -1);
    if (l == lowest && !plan.Trains(ids.attention_norm[l])) {
      // Nothing below is trained: only the gradients of the values are needed.
      DeltasBackward(model, plan, MatrixId(l, Module::kQ), t.h0, dq, {});
      DeltasBackward(model, plan, MatrixId(l, Module::kK), t.h0, dk, {});
      DeltasBackward(model, plan, MatrixId(l, Module::kV), t.h0, dv, {});
      return;
    }
    dh = ProjectBackward(model, plan, l, Module::kQ, t.h0, dq);
    dh.add_(ProjectBackward(model, plan, l, Module::kK, t.h0, dk));
    dh.add_(ProjectBackward(model, plan, l, Module::kV, t.h0, dv));
    NormBackward(plan, ids.attention_norm[l], t.x0, weights.attention_norm, t.rstd0, dh, true,
                 l == lowest ? at::Tensor() : dx);
  }
  if (lowest < 0) plan.EmbedBackward(ids.embedding, tokens, dx);
}

at::Tensor TokenTensor(const Ragged& batch) {
  at::Tensor tokens = at::empty({static_cast<int64_t>(batch.tokens.size())}, at::kInt);
  std::copy(batch.tokens.begin(), batch.tokens.end(), tokens.mutable_data_ptr<int32_t>());
  return tokens;
}

at::Tensor PositionTensor(const std::vector<int32_t>& offsets) {
  at::Tensor positions = at::empty({offsets.back()}, at::kInt);
  int32_t* out = positions.mutable_data_ptr<int32_t>();
  for (size_t d = 0; d + 1 < offsets.size(); ++d) {
    for (int32_t i = offsets[d]; i < offsets[d + 1]; ++i) out[i] = i - offsets[d];
  }
  return positions;
}

}  // namespace selfedit
