#include "core/attention.h"

#include "core/layer.h"
#include "cpu/kernels.h"

namespace selfedit {

int64_t RaggedAttention::Window(int64_t layer) const { return config_.Window(layer); }

void RaggedAttention::Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& out, const at::Tensor& lse) {
  Typed(q, [&](auto zero) {
    using T = decltype(zero);
    cpu::AttentionForward<T>(q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                             offsets_.data(), Attended(), static_cast<int64_t>(offsets_.size()) - 1,
                             config_.heads, config_.kv_heads, config_.head_dim, T(config_.AttentionScale()),
                             Window(layer), out.mutable_data_ptr<T>(),
                             lse.defined() ? lse.mutable_data_ptr<T>() : nullptr);
  });
}

void RaggedAttention::Backward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor& lse, const at::Tensor& dout,
                               const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) const {
  Typed(q, [&](auto zero) {
    using T = decltype(zero);
    cpu::AttentionBackward<T>(q.const_data_ptr<T>(), k.const_data_ptr<T>(), v.const_data_ptr<T>(),
                              out.const_data_ptr<T>(), lse.const_data_ptr<T>(), dout.const_data_ptr<T>(),
                              offsets_.data(), Attended(), static_cast<int64_t>(offsets_.size()) - 1,
                              config_.heads, config_.kv_heads, config_.head_dim, T(config_.AttentionScale()),
                              Window(layer), dq.mutable_data_ptr<T>(), dk.mutable_data_ptr<T>(),
                              dv.mutable_data_ptr<T>());
  });
}

}  // namespace selfedit
