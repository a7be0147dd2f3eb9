#include "cuda/runtime/head.h"

#include <algorithm>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {

DeviceHead::DeviceHead(const DeviceModel& model, int64_t chunk, bool backward)
    : model_(model), chunk_(chunk) {
  const int64_t V = model.config().vocab_size;
  logits_ = at::empty({chunk, V}, model.options(at::kFloat));
  if (backward && model.type() != Type::kFloat32) rounded_ = at::empty({chunk, V}, model.options());
}

int64_t DeviceHead::Bytes(const DeviceModel& model, int64_t chunk) {
  return chunk * model.config().vocab_size * (4 + model.type_bytes());
}

// 256 MB of float logits: 1,280 rows over 49,152 tokens, 432 over 152,064.
int64_t DeviceHead::DefaultChunk(const DeviceModel& model, int64_t rows) {
  const int64_t chunk = (int64_t{1} << 26) / model.config().vocab_size / 16 * 16;
  return std::clamp<int64_t>(chunk, 16, rows);
}

template <typename F>
void DeviceHead::Chunks(int64_t rows, F&& body) const {
  for (int64_t begin = 0; begin < rows; begin += chunk_) body(begin, std::min(chunk_, rows - begin));
}

at::Tensor DeviceHead::LogitsOf(const at::Tensor& hidden, const Overlays& overlays, int64_t begin,
                                int64_t count, const at::Tensor& buffer) const {
  const at::Tensor logits = buffer.narrow(0, 0, count), rows = hidden.narrow(0, begin, count);
  Product(rows, model_.head(), true, false, logits);
  for (const Overlay* overlay : overlays)
    overlay->HeadForward(begin, count, rows.const_data_ptr(), logits.mutable_data_ptr<float>());
  return logits;
}

void DeviceHead::HiddenGradient(const at::Tensor& hidden, const Overlays& overlays, const at::Tensor& dlogits,
                                int64_t begin, int64_t count, const at::Tensor& dhidden) const {
  at::Tensor factor = dlogits;
  if (rounded_.defined()) {
    factor = rounded_.narrow(0, 0, count);
    Convert(dlogits, factor);
  }
  const at::Tensor rows = dhidden.narrow(0, begin, count);
  Product(factor, model_.head(), false, false, rows);
  for (const Overlay* overlay : overlays) {
    overlay->HeadBackward(begin, count, hidden.narrow(0, begin, count).const_data_ptr(),
                          factor.const_data_ptr(), rows.mutable_data_ptr());
  }
}

void DeviceHead::CrossEntropy(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target,
                              const float* weight, int64_t rows, float* logprob,
                              const at::Tensor& dhidden) const {
  const int64_t V = model_.config().vocab_size;
  Chunks(rows, [&](int64_t begin, int64_t count) {
    const at::Tensor logits = LogitsOf(hidden, overlays, begin, count, logits_);
    Launch(cuda::CrossEntropy, Type::kFloat32, logits.mutable_data_ptr(), target + begin, weight + begin,
           count, V, logprob + begin);
    HiddenGradient(hidden, overlays, logits, begin, count, dhidden);
  });
}

void DeviceHead::Logprobs(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target,
                          int64_t rows, float temperature, float* logprob, float* lse, float* entropy) const {
  const int64_t V = model_.config().vocab_size;
  Chunks(rows, [&](int64_t begin, int64_t count) {
    const at::Tensor logits = LogitsOf(hidden, overlays, begin, count, logits_);
    Launch(LogSoftmaxRows, Type::kFloat32, logits.mutable_data_ptr(), target + begin, count, V, temperature,
           logprob + begin, lse == nullptr ? nullptr : lse + begin,
           entropy == nullptr ? nullptr : entropy + begin);
  });
}

void DeviceHead::LogprobsBackward(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target,
                                  const float* lse, const float* g, const float* e, const float* entropy,
                                  int64_t rows, float temperature, const at::Tensor& dhidden) const {
  const int64_t V = model_.config().vocab_size;
  Chunks(rows, [&](int64_t begin, int64_t count) {
    const at::Tensor logits = LogitsOf(hidden, overlays, begin, count, logits_);
    Launch(LogSoftmaxRowsBackward, Type::kFloat32, logits.mutable_data_ptr(), target + begin, lse + begin,
           g + begin, e == nullptr ? nullptr : e + begin, entropy == nullptr ? nullptr : entropy + begin,
           count, V, temperature);
    HiddenGradient(hidden, overlays, logits, begin, count, dhidden);
  });
}

void DeviceHead::Divergence(const at::Tensor& a, const Overlays& of_a, const at::Tensor& b,
                            const Overlays& of_b, int64_t rows, float* kl) const {
  const int64_t V = model_.config().vocab_size;
  if (!other_.defined()) other_ = at::empty_like(logits_);
  Chunks(rows, [&](int64_t begin, int64_t count) {
    const at::Tensor p = LogitsOf(a, of_a, begin, count, logits_),
                     q = LogitsOf(b, of_b, begin, count, other_);
    Launch(KlRows, Type::kFloat32, p.mutable_data_ptr(), q.mutable_data_ptr(), count, V, kl + begin);
  });
}

void DeviceHead::Logits(const at::Tensor& hidden, const Overlays& overlays, int64_t rows,
                        const at::Tensor& logits) const {
  LogitsOf(hidden, overlays, 0, rows, logits);
}

}  // namespace selfedit::cuda
