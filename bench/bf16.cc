// The bfloat16 product against oneDNN's packed linear as linear.cc calls it without ours (float32 in and out:
// two conversions), and as it is alone (bfloat16 in and out). Interleaved; medians of the processor time of
// one thread.
//   bench_bf16 [repeats [variant]]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "core/torch_version.h"
#include "cpu/bf16_gemm.h"

namespace {

using selfedit::cpu::Bf16Weight;
namespace torch_version = selfedit::torch_version;

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

double Median(std::vector<double>& figures) {
  std::sort(figures.begin(), figures.end());
  return figures[figures.size() / 2];
}

// Enough matrices that the weights of one call come from memory, as they do in a model.
void Compare(int64_t m, int64_t out, int64_t in, int repeats) {
  const int64_t count = std::max<int64_t>(1, (int64_t{96} << 20) / (out * in * 2));
  std::vector<Bf16Weight> ours;
  std::vector<at::Tensor> theirs;
  at::Tensor first;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor w = at::randn({out, in}).to(at::kBFloat16);
    if (i == 0) first = w;
    ours.emplace_back(reinterpret_cast<const uint16_t*>(w.const_data_ptr()), out, in, false);
    theirs.push_back(torch_version::PackLinearWeight(w, 512));
  }
  const at::Tensor x = at::randn({m, in}), narrow = x.to(at::kBFloat16);
  at::Tensor y = at::empty({m, out}), other;
  const auto one = [&](int64_t i) {
    selfedit::cpu::Bf16Product(ours[i % count], x.const_data_ptr<float>(), m, in, y.mutable_data_ptr<float>(),
                               out);
  };
  const auto converted = [&](int64_t i) {
    other = torch_version::PackedLinear(x.to(at::kBFloat16), theirs[i % count], std::nullopt).to(at::kFloat);
  };
  const auto alone = [&](int64_t i) {
    // Another matrix than the one just used.
    other = torch_version::PackedLinear(narrow, theirs[(i + count / 2) % count], std::nullopt);
  };
  one(0);
  const at::Tensor exact = at::mm(narrow.to(at::kDouble), first.to(at::kDouble).t());
  const double error = ((y - exact).norm() / exact.norm()).item<double>();
  if (!(error < 1e-5)) {
    std::fprintf(stderr, "wrong: relative difference %g\n", error);
    std::exit(1);
  }
  converted(0);
  alone(0);
  std::vector<double> times[3];
  int64_t turn = 0;
  for (int r = 0; r < repeats; ++r) {
    double start = Seconds();
    one(turn);
    times[0].push_back(Seconds() - start);
    start = Seconds();
    converted(turn);
    times[1].push_back(Seconds() - start);
    start = Seconds();
    alone(turn++);
    times[2].push_back(Seconds() - start);
  }
  const double ms[] = {Median(times[0]) * 1e3, Median(times[1]) * 1e3, Median(times[2]) * 1e3};
  const double flops = 2.0 * m * out * in, bytes = 2.0 * out * in;
  std::printf("%5ld %6ldx%-6ld %9.3f %9.3f %9.3f %9.0f %9.1f %8.2f %8.2f\n", m, out, in, ms[0], ms[1], ms[2],
              flops / ms[0] / 1e6, bytes / ms[0] / 1e6, ms[1] / ms[0], ms[2] / ms[0]);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 101;
  if (argc > 2 && !selfedit::cpu::SelectBf16Simd(argv[2])) {
    std::fprintf(stderr, "this machine cannot run %s\n", argv[2]);
    return 1;
  }
  at::set_num_threads(1);
  const c10::InferenceMode inference;
  std::printf("variant %s, one thread, ms a call\n", selfedit::cpu::Bf16SimdName());
  std::printf("%5s %13s %9s %9s %9s %9s %9s %8s %8s\n", "m", "out x in", "ours", "converted", "oneDNN",
              "GFLOP/s", "GB/s", "conv/our", "oned/our");
  const std::pair<int64_t, int64_t> shapes[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {576, 192}};
  for (const int64_t m : {1, 8, 16, 32, 64, 128, 512}) {
    if (argc > 3 && m < std::atoi(argv[3])) continue;
    for (const auto& [out, in] : shapes) Compare(m, out, in, repeats);
    if (m <= 64) Compare(m, 49152, 576, std::max(5, repeats / 10));
  }
  return 0;
}
