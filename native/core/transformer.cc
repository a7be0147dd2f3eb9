#include "core/transformer.h"

#include "core/layer.h"

namespace selfedit {
namespace {

// One pass through the layers; what is the same in all of them.
class Pass {
 public:
  Pass(const Model& model, const at::Tensor& positions, const OverlayPlan& plan)
      : model_(model), config_(model.config()), ids_(model.ids()), plan_(plan), positions_(positions) {
    const int64_t count = positions.size(0) == 0 ? 1 : positions.max().item<int>() + 1;
    global_ = model.RopeTables(count, false);
    local_ = config_.local_rope ? model.RopeTables(count, true) : global_;
  }

  // x [n, hidden] before the layer -> after it. Fills tape when it is not null.
  at::Tensor Forward(int64_t l, const at::Tensor& x, Attention& attention, LayerTape* tape) const {
    const LayerWeights& weights = model_.layer(l);
    const int64_t n = x.size(0);
    LayerTape t;
    t.x0 = x;
    if (tape != nullptr) t.lse = at::empty({n, config_.heads}, x.options());
    t.h0 = Normed(ids_.attention_norm[l], x, weights.attention_norm, tape, &t.rstd0);
    t.q = Project(model_, plan_, l, Module::kQ, t.h0);
    t.k = Project(model_, plan_, l, Module::kK, t.h0);
    t.v = Project(model_, plan_, l, Module::kV, t.h0);
    if (config_.qk_norm) {
      t.plain_q = t.q;
      t.plain_k = t.k;
      t.q = Normed(ids_.q_norm[l], t.plain_q, weights.q_norm, tape, &t.rstd_q);
      t.k = Normed(ids_.k_norm[l], t.plain_k, weights.k_norm, tape, &t.rstd_k);
    }
    Rotate(t.q, positions_, Tables(l), config_.head_dim, +1);
    Rotate(t.k, positions_, Tables(l), config_.head_dim, +1);
    t.attention = at::empty_like(t.q);
    attention.Forward(l, t.q, t.k, t.v, t.attention, t.lse);
    t.attended = Project(model_, plan_, l, Module::kO, t.attention);
    t.x1 = AfterNorm(ids_.post_attention_norm[l], weights.post_attention_norm, tape, &t.attended,
                     &t.rstd_attended)
               .add_(x);
    t.h1 = Normed(ids_.mlp_norm[l], t.x1, weights.mlp_norm, tape, &t.rstd1);
    t.gate = Project(model_, plan_, l, Module::kGate, t.h1);
    t.up = Project(model_, plan_, l, Module::kUp, t.h1);
    t.mapped = Project(model_, plan_, l, Module::kDown, Gated(config_, t.gate, t.up));
    const at::Tensor next =
        AfterNorm(ids_.post_mlp_norm[l], weights.post_mlp_norm, tape, &t.mapped, &t.rstd_mapped).add_(t.x1);
    if (tape != nullptr) *tape = std::move(t);
    return next;
  }

  // dx [n, hidden], the gradient after the layer, becomes that before it; not when `last`, below which
  // nothing is trained.
  void Backward(int64_t l, const RaggedAttention& attention, const LayerTape& t, const at::Tensor& dx,
                bool last) const {
    const LayerWeights& weights = model_.layer(l);
    // x2 = x1 + norm(down(activation(gate) up))
    const at::Tensor dmapped =
        AfterNormBackward(ids_.post_mlp_norm[l], weights.post_mlp_norm, t.mapped, t.rstd_mapped, dx);
    const bool touched = plan_.Touches(MatrixId(l, Module::kDown));
    const at::Tensor da = ProjectBackward(model_, plan_, l, Module::kDown,
                                          touched ? Gated(config_, t.gate, t.up) : at::Tensor(), dmapped);
    const auto [dgate, dup] = GatedBackward(config_, t.gate, t.up, da);
    at::Tensor dh = ProjectBackward(model_, plan_, l, Module::kGate, t.h1, dgate);
    dh.add_(ProjectBackward(model_, plan_, l, Module::kUp, t.h1, dup));
    NormBackward(plan_, ids_.mlp_norm[l], t.x1, weights.mlp_norm, t.rstd1, dh, true, dx);

    // x1 = x0 + norm(o(attention(rope norm q, rope norm k, v)))
    const at::Tensor dattended = AfterNormBackward(ids_.post_attention_norm[l], weights.post_attention_norm,
                                                   t.attended, t.rstd_attended, dx);
    const at::Tensor dmixed = ProjectBackward(model_, plan_, l, Module::kO, t.attention, dattended);
    at::Tensor dq = at::empty_like(t.q), dk = at::empty_like(t.k), dv = at::empty_like(t.v);
    attention.Backward(l, t.q, t.k, t.v, t.attention, t.lse, dmixed.contiguous(), dq, dk, dv);
    Rotate(dq, positions_, Tables(l), config_.head_dim, -1);
    Rotate(dk, positions_, Tables(l), config_.head_dim, -1);
    if (config_.qk_norm) {
      dq = HeadNormBackward(ids_.q_norm[l], weights.q_norm, t.plain_q, t.rstd_q, dq);
      dk = HeadNormBackward(ids_.k_norm[l], weights.k_norm, t.plain_k, t.rstd_k, dk);
    }
    if (last && !plan_.Trains(ids_.attention_norm[l])) {
      // Nothing below is trained: only the gradients of the values are needed.
      DeltasBackward(model_, plan_, MatrixId(l, Module::kQ), t.h0, dq, {});
      DeltasBackward(model_, plan_, MatrixId(l, Module::kK), t.h0, dk, {});
      DeltasBackward(model_, plan_, MatrixId(l, Module::kV), t.h0, dv, {});
      return;
    }
    dh = ProjectBackward(model_, plan_, l, Module::kQ, t.h0, dq);
    dh.add_(ProjectBackward(model_, plan_, l, Module::kK, t.h0, dk));
    dh.add_(ProjectBackward(model_, plan_, l, Module::kV, t.h0, dv));
    NormBackward(plan_, ids_.attention_norm[l], t.x0, weights.attention_norm, t.rstd0, dh, true,
                 last ? at::Tensor() : dx);
  }

 private:
  using RopeTables = std::pair<at::Tensor, at::Tensor>;
  const RopeTables& Tables(int64_t layer) const { return config_.Sliding(layer) ? local_ : global_; }

  at::Tensor Normed(int64_t id, const at::Tensor& x, const at::Tensor& weight, const LayerTape* tape,
                    at::Tensor* rstd) const {
    if (tape != nullptr) *rstd = at::empty({x.numel() / weight.size(0)}, x.options());
    return Norm(plan_, id, x, weight, config_.rms_eps, *rstd);
  }

  // A norm between a block and the residual, where the model has one. What it took is only kept then.
  at::Tensor AfterNorm(int64_t id, const at::Tensor& weight, const LayerTape* tape, at::Tensor* taken,
                       at::Tensor* rstd) const {
    if (!config_.post_norms) return std::exchange(*taken, at::Tensor());
    return Normed(id, *taken, weight, tape, rstd);
  }

  at::Tensor AfterNormBackward(int64_t id, const at::Tensor& weight, const at::Tensor& taken,
                               const at::Tensor& rstd, const at::Tensor& dx) const {
    return config_.post_norms ? HeadNormBackward(id, weight, taken, rstd, dx) : dx;
  }

  at::Tensor HeadNormBackward(int64_t id, const at::Tensor& weight, const at::Tensor& x,
                              const at::Tensor& rstd, const at::Tensor& dy) const {
    at::Tensor dx = at::empty_like(x);
    NormBackward(plan_, id, x, weight, rstd, dy, false, dx);
    return dx;
  }

  const Model& model_;
  const ModelConfig& config_;
  const TensorIds& ids_;
  const OverlayPlan& plan_;
  const at::Tensor& positions_;
  RopeTables global_, local_;
};

}  // namespace

at::Tensor TransformerForward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                              const OverlayPlan& plan, Attention& attention, Tape* tape) {
  const ModelConfig& config = model.config();
  const Pass pass(model, positions, plan);
  at::Tensor x = model.Embed(tokens);
  plan.EmbedForward(model.ids().embedding, tokens, x);
  if (config.embedding_scale != 1) x.mul_(config.embedding_scale);
  if (tape != nullptr) {
    tape->first_layer = std::max<int64_t>(0, plan.lowest_trainable_layer());
    tape->layers.assign(config.layers, {});
  }
  for (int64_t l = 0; l < config.layers; ++l) {
    const bool record = tape != nullptr && l >= tape->first_layer;
    x = pass.Forward(l, x, attention, record ? &tape->layers[l] : nullptr);
  }
  at::Tensor rstd;
  if (tape != nullptr) {
    rstd = at::empty({tokens.size(0)}, model.options());
    tape->x = x;
    tape->rstd = rstd;
  }
  return Norm(plan, model.ids().final_norm, x, model.final_norm(), config.rms_eps, rstd);
}

void TransformerBackward(const Model& model, const at::Tensor& tokens, const at::Tensor& positions,
                         const OverlayPlan& plan, const RaggedAttention& attention, const Tape& tape,
                         const at::Tensor& dhidden) {
  const ModelConfig& config = model.config();
  if (!plan.trainable()) return;
  const Pass pass(model, positions, plan);
  const int64_t lowest = plan.lowest_trainable_layer();
  at::Tensor dx = lowest < config.layers ? at::empty_like(dhidden) : at::Tensor();
  NormBackward(plan, model.ids().final_norm, tape.x, model.final_norm(), tape.rstd, dhidden, false, dx);
  for (int64_t l = config.layers - 1; l >= tape.first_layer; --l) {
    pass.Backward(l, attention, tape.layers[l], dx, l == lowest);
  }
  if (lowest >= 0) return;
  if (config.embedding_scale != 1) dx.mul_(config.embedding_scale);
  plan.EmbedBackward(model.ids().embedding, tokens, dx);
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
