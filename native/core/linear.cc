#include "core/linear.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "core/torch_version.h"
#include "cpu/gemm.h"

namespace selfedit {
namespace {
// Below this a row's bits may depend on the number of rows (measured: oneDNN from 2 up, MKL from 12 up).
constexpr int64_t kMinRows = 16;
constexpr int64_t kPackRows = 512;  // the number of rows that oneDNN chooses the layout for
constexpr int64_t kBlockRows = 64;  // rows of one task

// float64 is for checking, so bits that do not depend on the number of rows count for more than MKL's speed.
at::Tensor DoubleProduct(const at::Tensor& x, const at::Tensor& dense, bool transposed) {
  const int64_t n = x.size(0), in = x.size(1), out = transposed ? dense.size(1) : dense.size(0);
  at::Tensor y = at::empty({n, out}, x.options());
  const double* w = dense.const_data_ptr<double>();
  const double* xs = x.const_data_ptr<double>();
  double* ys = y.mutable_data_ptr<double>();
  at::parallel_for(0, (n + kBlockRows - 1) / kBlockRows, 1, [&](int64_t first, int64_t last) {
    for (int64_t begin = first * kBlockRows; begin < std::min(n, last * kBlockRows); begin += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, n - begin);
      cpu::Gemm<double>(false, !transposed, rows, out, in, 1.0, xs + begin * in, in, w, dense.size(1), 0.0,
                        ys + begin * out, out);
    }
  });
  return y;
}
}  // namespace

at::Tensor Linear::Product(const at::Tensor& x, Packed* packed, bool transposed) const {
  if (weight_.is_cpu() && weight_.scalar_type() == at::kDouble) {
    return DoubleProduct(x.contiguous(), weight_, transposed);
  }
  if (weight_.is_cpu() && weight_.scalar_type() == at::kBFloat16) {
    if (!packed->half.defined()) {
      const at::Tensor dense = weight_.contiguous();
      packed->half = cpu::Bf16Weight(reinterpret_cast<const uint16_t*>(dense.const_data_ptr<at::BFloat16>()),
                                     transposed ? in() : out(), transposed ? out() : in(), transposed);
      std::atomic_ref(packed_bytes_).fetch_add(packed->half.bytes());
    }
    const int terms = operand_ == Operand::kRounded ? 1 : transposed ? 2 : 3;
    const at::Tensor input = x.contiguous();
    at::Tensor y = at::empty({x.size(0), packed->half.out()}, x.options());
    cpu::Bf16Product(packed->half, input.const_data_ptr<float>(), x.size(0), packed->half.in(),
                     y.mutable_data_ptr<float>(), packed->half.out(), terms);
    return y;
  }
  if (weight_.is_cpu() && weight_.scalar_type() == at::kFloat && cpu::F32ProductPays()) {
    if (!packed->whole.defined()) {
      const at::Tensor dense = weight_.contiguous();
      packed->whole = cpu::F32Weight(dense.const_data_ptr<float>(), transposed ? in() : out(),
                                     transposed ? out() : in(), transposed);
      std::atomic_ref(packed_bytes_).fetch_add(packed->whole.bytes());
    }
    const at::Tensor input = x.contiguous();
    at::Tensor y = at::empty({x.size(0), packed->whole.out()}, x.options());
    cpu::F32Product(packed->whole, input.const_data_ptr<float>(), x.size(0), packed->whole.in(),
                    y.mutable_data_ptr<float>(), packed->whole.out());
    return y;
  }
  const int64_t n = x.size(0);
  if (n >= kMinRows) return PackedProduct(x, packed, transposed);
  const at::Tensor input = at::zeros({kMinRows, x.size(1)}, x.options());
  input.narrow(0, 0, n).copy_(x);
  return PackedProduct(input, packed, transposed).narrow(0, 0, n);
}

at::Tensor Linear::PackedProduct(const at::Tensor& x, Packed* packed, bool transposed) const {
  const bool half = weight_.scalar_type() == at::kBFloat16 && operand_ == Operand::kRounded;
  const at::ScalarType type = half ? at::kBFloat16 : at::kFloat;
  const at::Tensor input = x.to(type).contiguous();
  at::Tensor y;
  if (weight_.is_cpu() && torch_version::HasPackedLinear()) {
    if (!packed->plain.defined()) {
      const at::Tensor dense = (transposed ? weight_.t() : weight_).to(type).contiguous();
      packed->plain = torch_version::PackLinearWeight(dense, kPackRows);
      std::atomic_ref(packed_bytes_).fetch_add(static_cast<int64_t>(dense.nbytes()));
    }
    y = torch_version::PackedLinear(input, packed->plain, std::nullopt);
  } else {
    const at::Tensor dense = weight_.to(type);
    y = at::mm(input, transposed ? dense : dense.t());
  }
  return y.to(at::kFloat);
}

at::Tensor Linear::Forward(const at::Tensor& x) const {
  at::Tensor y = Product(x, &forward_, false);
  if (bias_) y.add_(*bias_);
  return y;
}

at::Tensor Linear::BackwardInput(const at::Tensor& dy) const { return Product(dy, &backward_, true); }

int64_t Linear::bytes() const {
  int64_t total = static_cast<int64_t>(weight_.nbytes());
  if (bias_) total += static_cast<int64_t>(bias_->nbytes());
  return total + std::atomic_ref(packed_bytes_).load();
}

}  // namespace selfedit
