#include "cuda/runtime/pass.h"

#include <algorithm>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {
at::Tensor Head(const at::Tensor& buffer, int64_t rows) { return buffer.narrow(0, 0, rows); }
void* Pointer(const at::Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
float* Floats(const at::Tensor& t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }

// The topmost overlay that changes a gain knows all that lies below it.
NormGain GainOf(const Overlays& overlays, int64_t id, int64_t heads) {
  for (auto overlay = overlays.rbegin(); overlay != overlays.rend(); ++overlay) {
    NormGain gain = (*overlay)->Gain(id);
    gain.heads = heads;
    if (gain.gain != nullptr) return gain;
  }
  return {};
}

bool Trains(const Overlays& overlays, int64_t id) {
  bool trains = false;
  for (const Overlay* overlay : overlays) trains |= overlay->Trains(id);
  return trains;
}
}  // namespace

Pass::Pass(const DeviceModel& model, int64_t rows, int64_t positions, std::optional<int64_t> lowest)
    : model_(model), rows_(rows), lowest_(lowest) {
  const ModelConfig& config = model.config();
  const auto options = model.options();
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  global_ = model.RopeTables(positions, false);
  local_ = config.local_rope ? model.RopeTables(positions, true) : global_;
  Layer turn[2];
  for (int64_t l = 0; l < config.layers; ++l) {
    if (lowest && l >= *lowest) {
      layers_.push_back(MakeLayer(true));
    } else {
      if (l < 2) turn[l] = MakeLayer(false);
      layers_.push_back(turn[l % 2]);
    }
  }
  act_ = at::empty({rows, f}, options);
  x_ = at::empty({rows, c}, options);
  hidden_ = at::empty({rows, c}, options);
  if (!lowest) return;
  rstd_ = at::empty({rows}, model.options(at::kFloat));
  dhidden_ = at::empty({rows, c}, options);
  dx_ = at::empty({rows, c}, options);
  dh_ = at::empty({rows, c}, options);
  if (config.post_norms) dblock_ = at::empty({rows, c}, options);
  dact_ = at::empty({rows, f}, options);
  dmixed_ = at::empty({rows, q}, options);
  dq_ = at::empty({rows, q}, options);
  dk_ = at::empty({rows, kv}, options);
  dv_ = at::empty({rows, kv}, options);
  delta_ = at::empty({rows, config.heads}, model.options(at::kFloat));
}

Pass::Layer Pass::MakeLayer(bool record) const {
  const ModelConfig& config = model_.config();
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const auto options = model_.options();
  Layer layer;
  for (at::Tensor* t : {&layer.x0, &layer.h0, &layer.x1, &layer.h1}) *t = at::empty({rows_, c}, options);
  for (at::Tensor* t : {&layer.q, &layer.mixed}) *t = at::empty({rows_, q}, options);
  for (at::Tensor* t : {&layer.k, &layer.v}) *t = at::empty({rows_, kv}, options);
  for (at::Tensor* t : {&layer.gate, &layer.up}) *t = at::empty({rows_, f}, options);
  if (config.qk_norm) {
    layer.plain_q = at::empty({rows_, q}, options);
    layer.plain_k = at::empty({rows_, kv}, options);
  }
  if (config.post_norms) {
    for (at::Tensor* t : {&layer.attended, &layer.mapped}) *t = at::empty({rows_, c}, options);
  }
  if (!record) return layer;
  const auto floats = model_.options(at::kFloat);
  if (config.qk_norm) {
    layer.rstd_q = at::empty({rows_, config.heads}, floats);
    layer.rstd_k = at::empty({rows_, config.kv_heads}, floats);
  }
  if (config.post_norms) {
    for (at::Tensor* t : {&layer.rstd_attended, &layer.rstd_mapped}) *t = at::empty({rows_}, floats);
  }
  layer.rstd0 = at::empty({rows_}, floats);
  layer.rstd1 = at::empty({rows_}, floats);
  layer.lse = at::empty({rows_, config.heads}, floats);
  return layer;
}

int64_t Pass::Bytes(const DeviceModel& model, int64_t rows, int64_t recorded_layers) {
  const ModelConfig& config = model.config();
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  int64_t layer = 4 * c + 2 * q + 2 * kv + 2 * f, statistics = config.heads + 2;
  int64_t once = 5 * c + 2 * f + 2 * q + 2 * kv;
  if (config.qk_norm) {
    layer += q + kv;
    statistics += config.heads + config.kv_heads;
  }
  if (config.post_norms) {
    layer += 2 * c;
    statistics += 2;
    once += c;
  }
  return rows * model.type_bytes() * ((recorded_layers + 2) * layer + once) +
         rows * 4 * (recorded_layers + 1) * statistics;
}

AttentionShape Pass::Shape(const int32_t* document_offsets, int64_t documents, int64_t rows) const {
  const ModelConfig& config = model_.config();
  AttentionShape shape;
  shape.document_offsets = document_offsets;
  shape.documents = documents;
  shape.tokens = rows;
  shape.H = config.heads;
  shape.G = config.kv_heads;
  shape.d = config.head_dim;
  shape.q_stride = config.heads * config.head_dim;
  shape.kv_stride = config.kv_heads * config.head_dim;
  shape.scale = static_cast<float>(config.AttentionScale());
  return shape;
}

void Pass::Attend(const AttentionShape& shape, const LayerAttention& attention) const {
  AttentionShape windowed = shape;
  windowed.window = model_.config().Window(attention.layer);
  Launch(AttentionForward, model_.type(), windowed, Pointer(attention.q), Pointer(attention.k),
         Pointer(attention.v), Pointer(attention.out), Floats(attention.lse));
}

void Pass::Project(int64_t layer, Module module, int64_t rows, const at::Tensor& x, const at::Tensor& y,
                   const Overlays& overlays) const {
  const DeviceLayer& weights = model_.layer(layer);
  const int m = static_cast<int>(module);
  Product(Head(x, rows), weights.weight[m], true, false, Head(y, rows));
  if (weights.bias[m].defined())
    Launch(BiasAdd, model_.type(), Pointer(y), Pointer(weights.bias[m]), rows, y.size(1));
  for (const Overlay* overlay : overlays)
    overlay->Forward(MatrixId(layer, module), rows, Pointer(x), Pointer(y));
}

void Pass::ProjectBackward(int64_t layer, Module module, int64_t rows, const at::Tensor& x,
                           const at::Tensor& dy, bool accumulate, const at::Tensor& dx,
                           const Overlays& overlays) const {
  if (dx.defined()) {
    Product(Head(dy, rows), model_.layer(layer).weight[static_cast<int>(module)], false, accumulate,
            Head(dx, rows));
  }
  for (const Overlay* overlay : overlays) {
    overlay->Backward(MatrixId(layer, module), rows, Pointer(x), Pointer(dy), Pointer(dx));
  }
}

void Pass::Norm(int64_t id, int64_t rows, const at::Tensor& x, const void* residual, const at::Tensor& weight,
                const at::Tensor& y, const at::Tensor& rstd, const Overlays& overlays) const {
  const int64_t c = weight.size(0), heads = x.size(1) / c;
  Launch(RmsNormForward, model_.type(), Pointer(x), residual, Pointer(weight), GainOf(overlays, id, heads),
         rows * heads, c, static_cast<float>(model_.config().rms_eps), Pointer(y), Floats(rstd));
}

void Pass::NormBackward(int64_t id, int64_t rows, const at::Tensor& x, const at::Tensor& weight,
                        const at::Tensor& rstd, const at::Tensor& dy, bool accumulate, const at::Tensor& dx,
                        const Overlays& overlays) const {
  const int64_t c = weight.size(0), heads = x.size(1) / c;
  for (const Overlay* overlay : overlays)
    overlay->GainBackward(id, rows, heads, Pointer(x), Floats(rstd), Pointer(dy));
  if (!dx.defined()) return;
  Launch(RmsNormBackward, model_.type(), Pointer(x), Pointer(weight), GainOf(overlays, id, heads),
         Floats(rstd), Pointer(dy), rows * heads, c, accumulate, Pointer(dx));
}

const at::Tensor& Pass::AfterNormBackward(int64_t id, int64_t rows, const at::Tensor& taken,
                                          const at::Tensor& weight, const at::Tensor& rstd,
                                          const Overlays& overlays) const {
  if (!model_.config().post_norms) return dx_;
  NormBackward(id, rows, taken, weight, rstd, dx_, false, dblock_, overlays);
  return dblock_;
}

void Pass::Rotate(int64_t layer, const RowBatch& batch, const at::Tensor& x, int sign) const {
  const int64_t d = model_.config().head_dim, width = x.size(1);
  const auto& [cos, sin] = model_.config().Sliding(layer) ? local_ : global_;
  Launch(Rope, model_.type(), Pointer(x), width, batch.positions, Floats(cos), Floats(sin), batch.rows,
         width / d, d, sign);
}

void Pass::Gate(const Layer& layer, int64_t rows) const {
  const int64_t f = model_.config().intermediate_size;
  const bool silu = model_.config().activation == Activation::kSilu;
  Launch(silu ? SwiGluForward : GeGluForward, model_.type(), Pointer(layer.gate), Pointer(layer.up), f, rows,
         f, Pointer(act_));
}

void Pass::Forward(const RowBatch& batch, const Overlays& overlays, const AttentionFunction& attention) {
  const ModelConfig& config = model_.config();
  const TensorIds& ids = model_.host().ids();
  const int64_t n = batch.rows, c = config.hidden_size;
  const at::Tensor& x = layers_[0].x0;
  for (const Overlay* overlay : overlays) overlay->Begin();
  Launch(Embed, model_.type(), Pointer(model_.embedding()), batch.tokens, n, c, config.vocab_size,
         Pointer(x));
  for (const Overlay* overlay : overlays) overlay->EmbedForward(batch, Pointer(x));
  ScaleEmbedded(x, n);
  const void* residual = nullptr;  // added to x0 by its norm
  for (int64_t l = 0; l < config.layers; ++l) {
    ForwardLayer(l, batch, residual, l + 1 < config.layers ? layers_[l + 1].x0 : x_, overlays, attention);
    residual = Pointer(layers_[l].x1);
  }
  Norm(ids.final_norm, n, x_, residual, model_.final_norm(), hidden_, rstd_, overlays);
}

void Pass::ScaleEmbedded(const at::Tensor& x, int64_t rows) const {
  const double scale = model_.config().embedding_scale;
  if (scale != 1) Launch(Scale, model_.type(), Pointer(x), static_cast<float>(scale), rows * x.size(1));
}

void Pass::ForwardLayer(int64_t l, const RowBatch& batch, const void* residual, const at::Tensor& next,
                        const Overlays& overlays, const AttentionFunction& attention) const {
  const ModelConfig& config = model_.config();
  const TensorIds& ids = model_.host().ids();
  const int64_t n = batch.rows;
  const Layer& t = layers_[l];
  const DeviceLayer& weights = model_.layer(l);
  Norm(ids.attention_norm[l], n, t.x0, residual, weights.attention_norm, t.h0, t.rstd0, overlays);
  Project(l, Module::kQ, n, t.h0, config.qk_norm ? t.plain_q : t.q, overlays);
  Project(l, Module::kK, n, t.h0, config.qk_norm ? t.plain_k : t.k, overlays);
  Project(l, Module::kV, n, t.h0, t.v, overlays);
  if (config.qk_norm) {
    Norm(ids.q_norm[l], n, t.plain_q, nullptr, weights.q_norm, t.q, t.rstd_q, overlays);
    Norm(ids.k_norm[l], n, t.plain_k, nullptr, weights.k_norm, t.k, t.rstd_k, overlays);
  }
  Rotate(l, batch, t.q, +1);
  Rotate(l, batch, t.k, +1);
  attention({l, t.q, t.k, t.v, t.mixed, t.lse});
  Project(l, Module::kO, n, t.mixed, config.post_norms ? t.attended : t.x1, overlays);
  if (config.post_norms) {
    Norm(ids.post_attention_norm[l], n, t.attended, nullptr, weights.post_attention_norm, t.x1,
         t.rstd_attended, overlays);
  }
  Norm(ids.mlp_norm[l], n, t.x1, Pointer(t.x0), weights.mlp_norm, t.h1, t.rstd1, overlays);
  Project(l, Module::kGate, n, t.h1, t.gate, overlays);
  Project(l, Module::kUp, n, t.h1, t.up, overlays);
  Gate(t, n);
  Project(l, Module::kDown, n, act_, config.post_norms ? t.mapped : next, overlays);
  if (config.post_norms) {
    Norm(ids.post_mlp_norm[l], n, t.mapped, nullptr, weights.post_mlp_norm, next, t.rstd_mapped, overlays);
  }
}

void Pass::Backward(const RowBatch& batch, const Overlays& overlays, const AttentionShape& shape) {
  BackwardLayers(batch, overlays, shape);
  if (*lowest_ < 0) {
    ScaleEmbedded(dx_, batch.rows);
    for (const Overlay* overlay : overlays) overlay->EmbedBackward(batch, Pointer(dx_));
  }
  for (const Overlay* overlay : overlays) overlay->End();
}

void Pass::BackwardLayers(const RowBatch& batch, const Overlays& overlays, const AttentionShape& shape) {
  const ModelConfig& config = model_.config();
  const int64_t lowest = *lowest_;
  NormBackward(model_.host().ids().final_norm, batch.rows, x_, model_.final_norm(), rstd_, dhidden_, false,
               lowest < config.layers ? dx_ : at::Tensor(), overlays);
  for (int64_t l = config.layers - 1; l >= std::max<int64_t>(0, lowest); --l) {
    BackwardLayer(l, batch, overlays, shape, l == lowest);
  }
}

void Pass::BackwardLayer(int64_t l, const RowBatch& batch, const Overlays& overlays,
                         const AttentionShape& shape, bool last) const {
  const ModelConfig& config = model_.config();
  const TensorIds& ids = model_.host().ids();
  const Type type = model_.type();
  const int64_t n = batch.rows, f = config.intermediate_size;
  const Layer& t = layers_[l];
  const DeviceLayer& weights = model_.layer(l);
  // x2 = x1 + norm(down(activation(gate) up))
  const at::Tensor& dmapped =
      AfterNormBackward(ids.post_mlp_norm[l], n, t.mapped, weights.post_mlp_norm, t.rstd_mapped, overlays);
  // The gated product is not kept: it is made again where a gradient needs it.
  if (Trains(overlays, MatrixId(l, Module::kDown))) Gate(t, n);
  ProjectBackward(l, Module::kDown, n, act_, dmapped, false, dact_, overlays);
  // dgate and dup take the place of gate and up.
  Launch(config.activation == Activation::kSilu ? SwiGluBackward : GeGluBackward, type, Pointer(t.gate),
         Pointer(t.up), f, Pointer(dact_), n, f, Pointer(t.gate), Pointer(t.up));
  ProjectBackward(l, Module::kGate, n, t.h1, t.gate, false, dh_, overlays);
  ProjectBackward(l, Module::kUp, n, t.h1, t.up, true, dh_, overlays);
  NormBackward(ids.mlp_norm[l], n, t.x1, weights.mlp_norm, t.rstd1, dh_, true, dx_, overlays);

  // x1 = x0 + norm(o(attention(rope norm q, rope norm k, v)))
  const at::Tensor& dattended = AfterNormBackward(ids.post_attention_norm[l], n, t.attended,
                                                  weights.post_attention_norm, t.rstd_attended, overlays);
  ProjectBackward(l, Module::kO, n, t.mixed, dattended, false, dmixed_, overlays);
  AttentionShape windowed = shape;
  windowed.window = config.Window(l);
  Launch(AttentionBackward, type, windowed, Pointer(t.q), Pointer(t.k), Pointer(t.v), Pointer(t.mixed),
         Floats(t.lse), Pointer(dmixed_), Floats(delta_), Pointer(dq_), Pointer(dk_), Pointer(dv_));
  Rotate(l, batch, dq_, -1);
  Rotate(l, batch, dk_, -1);
  if (config.qk_norm) {
    NormBackward(ids.q_norm[l], n, t.plain_q, weights.q_norm, t.rstd_q, dq_, false, dq_, overlays);
    NormBackward(ids.k_norm[l], n, t.plain_k, weights.k_norm, t.rstd_k, dk_, false, dk_, overlays);
  }
  // Where nothing below is trained only the gradients of the values are needed.
  const at::Tensor dh = last && !Trains(overlays, ids.attention_norm[l]) ? at::Tensor() : dh_;
  ProjectBackward(l, Module::kQ, n, t.h0, dq_, false, dh, overlays);
  ProjectBackward(l, Module::kK, n, t.h0, dk_, true, dh, overlays);
  ProjectBackward(l, Module::kV, n, t.h0, dv_, true, dh, overlays);
  if (!dh.defined()) return;
  NormBackward(ids.attention_norm[l], n, t.x0, weights.attention_norm, t.rstd0, dh_, true,
               last ? at::Tensor() : dx_, overlays);
}

}  // namespace selfedit::cuda
