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

at::Tensor Linear::Product(const at::Tensor& x, const at::Tensor& dense, at::Tensor* packed,
                           bool transposed) const {
  const int64_t n = x.size(0);
  at::Tensor input = x;
  if (n < kMinRows) {
    input = at::zeros({kMinRows, x.size(1)}, x.options());
    input.narrow(0, 0, n).copy_(x);
  }
  const bool half = dense.scalar_type() == at::kBFloat16;
  if (half) input = input.to(at::kBFloat16);
  at::Tensor y;
  if (dense.scalar_type() != at::kDouble && dense.is_cpu() && torch_version::HasPackedLinear()) {
    if (!packed->defined()) {
      const at::Tensor plain = transposed ? dense.t().contiguous() : dense.contiguous();
      *packed = torch_version::PackLinearWeight(plain, kPackRows);
      std::atomic_ref(packed_bytes_).fetch_add(static_cast<int64_t>(dense.nbytes()));
    }
    y = torch_version::PackedLinear(input.contiguous(), *packed, std::nullopt);
  } else if (dense.scalar_type() == at::kDouble && dense.is_cpu()) {
    y = DoubleProduct(input.contiguous(), dense, transposed);
  } else {
    y = transposed ? at::mm(input, dense) : at::mm(input, dense.t());
  }
  if (half) y = y.to(at::kFloat);
  return n < kMinRows ? y.narrow(0, 0, n) : y;
}

at::Tensor Linear::Forward(const at::Tensor& x) const {
  at::Tensor y = Product(x, weight_, &packed_, false);
  if (bias_) y.add_(*bias_);
  return y;
}

at::Tensor Linear::BackwardInput(const at::Tensor& dy) const {
  return Product(dy, weight_, &packed_transposed_, true);
}

int64_t Linear::bytes() const {
  int64_t total = static_cast<int64_t>(weight_.nbytes());
  if (bias_) total += static_cast<int64_t>(bias_->nbytes());
  return total + std::atomic_ref(packed_bytes_).load();
}

}  // namespace selfedit
