// A frozen weight matrix and its two products, y = x W^T + b and dx = dy W.
#pragma once
#include <ATen/ATen.h>

#include <optional>

namespace selfedit {

// Weights in float32 and bfloat16 are packed once by oneDNN, at first use and apart for each direction
// (decision 10). Activations are float32 (float64 for a float64 model); a bfloat16 weight sees them rounded
// to bfloat16.
class Linear {
 public:
  Linear() = default;
  Linear(at::Tensor weight, std::optional<at::Tensor> bias)
      : weight_(std::move(weight)), bias_(std::move(bias)) {}

  at::Tensor Forward(const at::Tensor& x) const;         // [n, in] -> [n, out]
  at::Tensor BackwardInput(const at::Tensor& dy) const;  // [n, out] -> [n, in]
  const at::Tensor& weight() const { return weight_; }
  const std::optional<at::Tensor>& bias() const { return bias_; }
  int64_t out() const { return weight_.size(0); }
  int64_t in() const { return weight_.size(1); }
  int64_t bytes() const;  // weight, bias and what has been packed so far

 private:
  at::Tensor Product(const at::Tensor& x, const at::Tensor& dense, at::Tensor* packed, bool transposed) const;

  at::Tensor weight_;  // [out, in]
  std::optional<at::Tensor> bias_;
  // Only the compute thread packs; no mutex is needed.
  mutable at::Tensor packed_, packed_transposed_;
  mutable int64_t packed_bytes_ = 0;  // read by other threads, through atomic_ref
};

}  // namespace selfedit
