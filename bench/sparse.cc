// Speed of the sparse products at SmolLM2-135M's shapes, float32, beside ATen's product of a compressed
// sparse matrix and beside the plain loop over rows of the batch. One thread.
//   bench_sparse [instruction set ...]
#include "cpu/sparse.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace {

using selfedit::cpu::SparseMatrix;

// Seconds a call: the best of ten runs of about 20 ms each.
double Best(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [&](int calls) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  call();
  const int calls = static_cast<int>(0.02 / std::max(seconds(1), 1e-6)) + 1;
  double best = 1e9;
  for (int repeat = 0; repeat < 10; ++repeat) best = std::min(best, seconds(calls) / calls);
  return best;
}

void PlainForward(const SparseMatrix& d, const float* values, const float* x, int64_t m, float* y) {
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t i = 0; i < d.out; ++i) {
      float sum = 0;
      for (int64_t k = d.row_offsets[i]; k < d.row_offsets[i + 1]; ++k)
        sum += values[k] * x[t * d.in + d.columns[k]];
      y[t * d.out + i] += sum;
    }
  }
}

void Measure(int64_t out, int64_t in, double density, int64_t m) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<double> uniform;
  std::vector<int32_t> offsets{0}, columns;
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      if (uniform(engine) < density) columns.push_back(static_cast<int32_t>(j));
    }
    offsets.push_back(static_cast<int32_t>(columns.size()));
  }
  const int64_t count = static_cast<int64_t>(columns.size());
  const SparseMatrix d{out, in, offsets.data(), columns.data()};
  const at::Tensor values = at::randn({count}), x = at::randn({m, in}), dy = at::randn({m, out});
  at::Tensor y = at::zeros({m, out}), dx = at::zeros({m, in}), dvalues = at::zeros({count});
  const float *v = values.const_data_ptr<float>(), *px = x.const_data_ptr<float>(),
              *pdy = dy.const_data_ptr<float>();
  float *py = y.mutable_data_ptr<float>(), *pdx = dx.mutable_data_ptr<float>();
  float* pdv = dvalues.mutable_data_ptr<float>();

  const at::Tensor csr = at::sparse_csr_tensor(at::tensor(offsets, at::kInt), at::tensor(columns, at::kInt),
                                               values, {out, in}, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor turned = x.t();
  const double forward = Best([&] { selfedit::cpu::SparseForward<float>(d, v, 1, px, m, py); });
  const double input = Best([&] { selfedit::cpu::SparseBackwardInput<float>(d, v, 1, pdy, m, pdx); });
  const double gradient = Best([&] { selfedit::cpu::SparseBackwardValues<float>(d, 1, px, pdy, m, pdv); });
  const double plain = Best([&] { PlainForward(d, v, px, m, py); });
  const double aten = Best([&] { y.add_(at::matmul(csr, turned).t()); });
  const double rate = 2.0 * count * m * 1e-9;
  std::printf(
      "%-9s [%5ld, %5ld] %4.0f %% %4ld rows  forward %9.1f us (%5.1f GFLOP/s)  dx %9.1f us (%5.1f)  "
      "dvalues %9.1f us (%5.1f)  | plain forward %9.1f us  ATen forward %9.1f us\n",
      selfedit::cpu::SimdName(), static_cast<long>(out), static_cast<long>(in), 100 * density,
      static_cast<long>(m), forward * 1e6, rate / forward, input * 1e6, rate / input, gradient * 1e6,
      rate / gradient, plain * 1e6, aten * 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  const c10::InferenceMode inference;
  at::set_num_threads(1);
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) names = {"avx512", "avx2", "portable"};
  for (const std::string& name : names) {
    if (!selfedit::cpu::SelectSimd(name.c_str())) {
      std::printf("%s: not on this machine\n", name.c_str());
      continue;
    }
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{576, 576}, {1536, 576}, {576, 1536}}) {
      for (const double density : {0.01, 0.1, 0.5}) {
        for (const int64_t m : {1, 2, 4, 8, 45, 512}) Measure(out, in, density, m);
      }
    }
  }
}
