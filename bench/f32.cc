// The float32 product on matrix units against oneDNN's packed linear. Interleaved; medians of wall time, all
// threads.
//   bench_f32 [repeats [threads [least rows]]]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/torch_version.h"
#include "cpu/f32_gemm.h"

namespace {

using selfedit::cpu::F32Weight;
namespace torch_version = selfedit::torch_version;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double>& figures) {
  std::sort(figures.begin(), figures.end());
  return figures[figures.size() / 2];
}

// Enough matrices that the weights of one call come from memory, as they do in a model.
void Compare(int64_t m, int64_t out, int64_t in, int repeats) {
  const int64_t count = std::max<int64_t>(1, (int64_t{256} << 20) / (out * in * 4));
  std::vector<F32Weight> ours;
  std::vector<at::Tensor> theirs;
  at::Tensor first;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor w = at::randn({out, in});
    if (i == 0) first = w;
    ours.emplace_back(w.const_data_ptr<float>(), out, in, false);
    theirs.push_back(torch_version::PackLinearWeight(w, 512));
  }
  const at::Tensor x = at::randn({m, in});
  at::Tensor y = at::empty({m, out}), other;
  const auto one = [&](int64_t i) {
    selfedit::cpu::F32Product(ours[i % count], x.const_data_ptr<float>(), m, in, y.mutable_data_ptr<float>(),
                              out);
  };
  const auto alone = [&](int64_t i) {
    other = torch_version::PackedLinear(x, theirs[i % count], std::nullopt);
  };
  const at::Tensor exact = at::mm(x.to(at::kDouble), first.to(at::kDouble).t());
  one(0);
  alone(0);
  const auto error = [&](const at::Tensor& found) {
    return ((found - exact).norm() / exact.norm()).item<double>();
  };
  const double errors[] = {error(y), error(other)};
  std::vector<double> times[2];
  int64_t turn = 0;
  for (int r = 0; r < repeats; ++r) {
    double start = Seconds();
    one(turn);
    times[0].push_back(Seconds() - start);
    start = Seconds();
    alone(turn++);
    times[1].push_back(Seconds() - start);
  }
  const double ms[] = {Median(times[0]) * 1e3, Median(times[1]) * 1e3};
  const double flops = 2.0 * m * out * in, bytes = 4.0 * out * in;
  std::printf("%5ld %6ldx%-6ld %9.3f %9.3f %9.0f %9.0f %9.1f %8.2f   %.1e %.1e\n", m, out, in, ms[0], ms[1],
              flops / ms[0] / 1e6, flops / ms[1] / 1e6, bytes / ms[0] / 1e6, ms[1] / ms[0], errors[0],
              errors[1]);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 51;
  if (argc > 2) at::set_num_threads(std::atoi(argv[2]));
  const c10::InferenceMode inference;
  std::printf("variant %s, %d threads, ms a call\n", selfedit::cpu::F32SimdName(), at::get_num_threads());
  std::printf("%5s %13s %9s %9s %9s %9s %9s %8s   %s\n", "m", "out x in", "ours", "oneDNN", "GFLOP/s",
              "oneDNN", "GB/s", "ratio", "errors");
  const std::pair<int64_t, int64_t> shapes[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {576, 192}};
  for (const int64_t m : {1, 8, 16, 32, 64, 128, 416}) {
    if (argc > 3 && m < std::atoi(argv[3])) continue;
    for (const auto& [out, in] : shapes) Compare(m, out, in, repeats);
    if (m == 1 || m >= 64) Compare(m, 49152, 576, std::max(5, repeats / 10));
  }
  Compare(128, 576, 49152, std::max(5, repeats / 10));
  return 0;
}
