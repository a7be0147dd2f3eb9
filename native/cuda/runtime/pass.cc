#include "cuda/runtime/pass.h"

#include <cmath>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {
at::Tensor Head(const at::Tensor& buffer, int64_t rows) { return buffer.narrow(0, 0, rows); }
void* Pointer(const at::Tensor& t) { return t.defined() ? t.mutable_data_ptr() : nullptr; }
float* Floats(const at::Tensor& t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }
}  // namespace

Pass::Pass(const DeviceModel& model, int64_t rows, int64_t positions, int64_t first_recorded)
    : model_(model), rows_(rows), first_recorded_(first_recorded) {
  const ModelConfig& config = model.config();
  const auto options = model.options();
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  std::tie(cos_, sin_) = model.RopeTables(positions);
  Layer turn[2];
  for (int64_t l = 0; l < config.layers; ++l) {
    if (l >= first_recorded) {
      layers_.push_back(MakeLayer(true));
    } else {
      if (l < 2) turn[l] = MakeLayer(false);
      layers_.push_back(turn[l % 2]);
    }
  }
  act_ = at::empty({rows, f}, options);
  x_ = at::empty({rows, c}, options);
  hidden_ = at::empty({rows, c}, options);
  if (first_recorded >= config.layers) return;
  rstd_ = at::empty({rows}, model.options(at::kFloat));
  dhidden_ = at::empty({rows, c}, options);
  dx_ = at::empty({rows, c}, options);
  dh_ = at::empty({rows, c}, options);
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
  if (!record) return layer;
  const auto floats = model_.options(at::kFloat);
  layer.rstd0 = at::empty({rows_}, floats);
  layer.rstd1 = at::empty({rows_}, floats);
  layer.lse = at::empty({rows_, config.heads}, floats);
  return layer;
}

int64_t Pass::Bytes(const DeviceModel& model, int64_t rows, int64_t recorded_layers) {
  const ModelConfig& config = model.config();
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const int64_t layer = 4 * c + 2 * q + 2 * kv + 2 * f;
  const int64_t once = 5 * c + 2 * f + 2 * q + 2 * kv;
  return rows * model.type_bytes() * ((recorded_layers + 2) * layer + once) +
         rows * 4 * (recorded_layers + 1) * (config.heads + 2);
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
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  return shape;
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

void Pass::Rotate(const RowBatch& batch, const at::Tensor& x, int sign) const {
  const int64_t d = model_.config().head_dim, width = x.size(1);
  Launch(Rope, model_.type(), Pointer(x), width, batch.positions, Floats(cos_), Floats(sin_), batch.rows,
         width / d, d, sign);
}

void Pass::Forward(const RowBatch& batch, const Overlays& overlays, const AttentionFunction& attention) {
  const ModelConfig& config = model_.config();
  const Type type = model_.type();
  const int64_t n = batch.rows, c = config.hidden_size, f = config.intermediate_size;
  const float eps = static_cast<float>(config.rms_eps);
  const void* residual = nullptr;  // added to x0 by its norm
  Launch(Embed, type, Pointer(model_.embedding()), batch.tokens, n, c, config.vocab_size,
         Pointer(layers_[0].x0));
  for (int64_t l = 0; l < config.layers; ++l) {
    const Layer& t = layers_[l];
    const DeviceLayer& weights = model_.layer(l);
    Launch(RmsNormForward, type, Pointer(t.x0), residual, Pointer(weights.attention_norm), NormGain{}, n, c,
           eps, Pointer(t.h0), Floats(t.rstd0));
    Project(l, Module::kQ, n, t.h0, t.q, overlays);
    Project(l, Module::kK, n, t.h0, t.k, overlays);
    Project(l, Module::kV, n, t.h0, t.v, overlays);
    Rotate(batch, t.q, +1);
    Rotate(batch, t.k, +1);
    attention({l, t.q, t.k, t.v, t.mixed, t.lse});
    Project(l, Module::kO, n, t.mixed, t.x1, overlays);
    Launch(RmsNormForward, type, Pointer(t.x1), Pointer(t.x0), Pointer(weights.mlp_norm), NormGain{}, n, c,
           eps, Pointer(t.h1), Floats(t.rstd1));
    Project(l, Module::kGate, n, t.h1, t.gate, overlays);
    Project(l, Module::kUp, n, t.h1, t.up, overlays);
    Launch(SwiGluForward, type, Pointer(t.gate), Pointer(t.up), f, n, f, Pointer(act_));
    Project(l, Module::kDown, n, act_, l + 1 < config.layers ? layers_[l + 1].x0 : x_, overlays);
    residual = Pointer(t.x1);
  }
  Launch(RmsNormForward, type, Pointer(x_), residual, Pointer(model_.final_norm()), NormGain{}, n, c, eps,
         Pointer(hidden_), Floats(rstd_));
}

void Pass::Backward(const RowBatch& batch, const Overlays& overlays, const AttentionShape& shape) {
  const ModelConfig& config = model_.config();
  const Type type = model_.type();
  const int64_t n = batch.rows, c = config.hidden_size, f = config.intermediate_size;
  Launch(RmsNormBackward, type, Pointer(x_), Pointer(model_.final_norm()), NormGain{}, Floats(rstd_),
         Pointer(dhidden_), n, c, false, Pointer(dx_));
  for (int64_t l = config.layers - 1; l >= first_recorded_; --l) {
    const Layer& t = layers_[l];
    const DeviceLayer& weights = model_.layer(l);
    bool trains_down = false;
    for (const Overlay* overlay : overlays) trains_down |= overlay->Trains(MatrixId(l, Module::kDown));
    // The gated product is not kept: it is made again where a gradient needs it.
    if (trains_down) Launch(SwiGluForward, type, Pointer(t.gate), Pointer(t.up), f, n, f, Pointer(act_));
    ProjectBackward(l, Module::kDown, n, act_, dx_, false, dact_, overlays);
    // dgate and dup take the place of gate and up.
    Launch(SwiGluBackward, type, Pointer(t.gate), Pointer(t.up), f, Pointer(dact_), n, f, Pointer(t.gate),
           Pointer(t.up));
    ProjectBackward(l, Module::kGate, n, t.h1, t.gate, false, dh_, overlays);
    ProjectBackward(l, Module::kUp, n, t.h1, t.up, true, dh_, overlays);
    Launch(RmsNormBackward, type, Pointer(t.x1), Pointer(weights.mlp_norm), NormGain{}, Floats(t.rstd1),
           Pointer(dh_), n, c, true, Pointer(dx_));
    ProjectBackward(l, Module::kO, n, t.mixed, dx_, false, dmixed_, overlays);
    Launch(AttentionBackward, type, shape, Pointer(t.q), Pointer(t.k), Pointer(t.v), Pointer(t.mixed),
           Floats(t.lse), Pointer(dmixed_), Floats(delta_), Pointer(dq_), Pointer(dk_), Pointer(dv_));
    Rotate(batch, dq_, -1);
    Rotate(batch, dk_, -1);
    // Nothing below is trained: only the gradients of the values are needed.
    const at::Tensor dh = l == first_recorded_ ? at::Tensor() : dh_;
    ProjectBackward(l, Module::kQ, n, t.h0, dq_, false, dh, overlays);
    ProjectBackward(l, Module::kK, n, t.h0, dk_, true, dh, overlays);
    ProjectBackward(l, Module::kV, n, t.h0, dv_, true, dh, overlays);
    if (!dh.defined()) return;
    Launch(RmsNormBackward, type, Pointer(t.x0), Pointer(weights.attention_norm), NormGain{}, Floats(t.rstd0),
           Pointer(dh_), n, c, true, Pointer(dx_));
  }
}

}  // namespace selfedit::cuda
