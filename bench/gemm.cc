// GFLOP/s of the low-rank products, one thread, operands in the cache.
//   bench_gemm [seconds per figure [instruction set]]
// A figure is the median of five; before it is printed, the result is compared with a plain sum in double.
#include "cpu/gemm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"

namespace {

struct Case {
  const char* name;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  float beta;
};

double Seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;  // of this process, whatever else runs
}

double Measure(const Case& c, double seconds) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0, 0.01f);
  std::vector<float> a(c.m * c.k), b(c.n * c.k), out(c.m * c.n);
  for (float& x : a) x = normal(engine);
  for (float& x : b) x = normal(engine);
  const int64_t lda = c.transpose_a ? c.m : c.k, ldb = c.transpose_b ? c.k : c.n;
  const auto call = [&] {
    selfedit::cpu::Gemm<float>(c.transpose_a, c.transpose_b, c.m, c.n, c.k, 1, a.data(), lda, b.data(), ldb,
                               c.beta, out.data(), c.n);
  };
  call();
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < c.k; ++p) {
        sum += static_cast<double>(c.transpose_a ? a[p * lda + i] : a[i * lda + p]) *
               (c.transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
      }
      if (!(std::abs(out[i * c.n + j] - sum) < 1e-6)) {
        std::fprintf(stderr, "%s is wrong at %ld, %ld: %g, expected %g\n", c.name, static_cast<long>(i),
                     static_cast<long>(j), out[i * c.n + j], sum);
        std::exit(1);
      }
    }
  }
  const double flops = 2.0 * static_cast<double>(c.m) * static_cast<double>(c.n) * static_cast<double>(c.k);
  std::vector<double> figures;
  for (int repeat = 0; repeat < 5; ++repeat) {
    int64_t calls = 0;
    const double start = Seconds();
    double end = start;
    while (end - start < seconds) {
      for (int i = 0; i < 20; ++i) call();
      calls += 20;
      end = Seconds();
    }
    figures.push_back(flops * static_cast<double>(calls) / (end - start) / 1e9);
  }
  std::sort(figures.begin(), figures.end());
  return figures[2];
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.02;
  std::printf("%-9s %-22s %5s", "set", "product (width, rank)", "m");
  const std::pair<int64_t, int64_t> sizes[] = {{576, 32}, {1536, 32}, {4096, 32}, {576, 8}, {576, 128}};
  for (const auto& [width, r] : sizes)
    std::printf(" %5ldx%-4ld", static_cast<long>(width), static_cast<long>(r));
  std::printf("   GFLOP/s\n");
  for (const char* set : {"avx512", "avx2", "portable"}) {
    if ((argc > 2 && std::strcmp(argv[2], set) != 0) || !selfedit::cpu::SelectSimd(set)) continue;
    for (int product = 0; product < 6; ++product) {
      for (const int64_t m : {1, 4, 8, 16, 64, 150}) {
        for (size_t s = 0; s < std::size(sizes); ++s) {
          const auto [width, r] = sizes[s];
          const Case cases[] = {
              {"u = x A^T", false, true, m, r, width, 0},   {"y += u B^T", false, true, m, width, r, 1},
              {"v = dy B", false, false, m, r, width, 0},   {"dx += v A", false, false, m, width, r, 1},
              {"dA += v^T x", true, false, r, width, m, 1}, {"dB += dy^T u", true, false, width, r, m, 1}};
          const Case& c = cases[product];
          if (s == 0) std::printf("%-9s %-22s %5ld", set, c.name, static_cast<long>(m));
          std::printf(" %10.1f", Measure(c, seconds));
          std::fflush(stdout);
        }
        std::printf("\n");
      }
    }
  }
  return 0;
}
