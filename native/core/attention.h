// Attention of one layer over a ragged batch.
#pragma once
#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "core/types.h"

namespace selfedit {

// Attention of one layer: q [n, H d], k and v [n, G d] after the rotation -> out [n, H d]; lse as in
// cpu/kernels.h, may be undefined.
class Attention {
 public:
  virtual ~Attention() = default;
  virtual void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const at::Tensor& out, const at::Tensor& lse) = 0;
};

// Causal within each document and the layer's window, nothing across documents. attended (a document each;
// empty: all tokens): how many of its first tokens are attended to, as in cpu/kernels.h.
class RaggedAttention : public Attention {
 public:
  RaggedAttention(const ModelConfig& config, const std::vector<int32_t>& offsets,
                  std::vector<int32_t> attended = {})
      : config_(config), offsets_(offsets), attended_(std::move(attended)) {}
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override;
  void Backward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& out, const at::Tensor& lse, const at::Tensor& dout, const at::Tensor& dq,
                const at::Tensor& dk, const at::Tensor& dv) const;

 private:
  int64_t Window(int64_t layer) const;
  const int32_t* Attended() const { return attended_.empty() ? nullptr : attended_.data(); }
  const ModelConfig& config_;
  const std::vector<int32_t>& offsets_;
  const std::vector<int32_t> attended_;
};

}  // namespace selfedit
