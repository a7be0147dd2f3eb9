// A frozen weight matrix and its two products, y = x W^T + b and dx = dy W.
#pragma once
#include <ATen/ATen.h>

#include <optional>

#include "cpu/bf16_gemm.h"
#include "cpu/f32_gemm.h"

namespace selfedit {

// What a bfloat16 weight sees of its float32 input.
enum class Operand {
  kRounded,  // the nearest bfloat16
  kFull,     // all of it forward, 16 bits of it backward: as good as a product in float32
};

// Weights are packed once, at first use and apart for each direction (decision 7): bfloat16 for our own
// product, whose results are float32; float32 too where the machine has matrix units, else by oneDNN.
// Activations are float32 (float64 for a float64 model).
class Linear {
 public:
  Linear() = default;
  Linear(at::Tensor weight, std::optional<at::Tensor> bias, Operand operand = Operand::kRounded)
      : weight_(std::move(weight)), bias_(std::move(bias)), operand_(operand) {}

  at::Tensor Forward(const at::Tensor& x) const;         // [n, in] -> [n, out]
  at::Tensor BackwardInput(const at::Tensor& dy) const;  // [n, out] -> [n, in]
  const at::Tensor& weight() const { return weight_; }
  const std::optional<at::Tensor>& bias() const { return bias_; }
  int64_t out() const { return weight_.size(0); }
  int64_t in() const { return weight_.size(1); }
  int64_t bytes() const;  // weight, bias and what has been packed so far

 private:
  struct Packed {
    at::Tensor plain;      // oneDNN's own layout
    cpu::F32Weight whole;  // of a float32 weight, where matrix units pay
    cpu::Bf16Weight half;  // of a bfloat16 weight
  };
  at::Tensor Product(const at::Tensor& x, Packed* packed, bool transposed) const;
  at::Tensor PackedProduct(const at::Tensor& x, Packed* packed, bool transposed) const;

  at::Tensor weight_;  // [out, in]
  std::optional<at::Tensor> bias_;
  Operand operand_ = Operand::kRounded;
  // Only the compute thread packs; no mutex is needed.
  mutable Packed forward_, backward_;
  mutable int64_t packed_bytes_ = 0;  // read by other threads, through atomic_ref
};

}  // namespace selfedit
