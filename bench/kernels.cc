// Speed of every CPU kernel at SmolLM2-135M's shape (H = 9, G = 3, d = 64, c = 576, f = 1536, V = 49,152),
// float32.
//   bench_kernels [threads] [instruction set ...]
// Attention counts the multiply-adds
// of the causal triangle alone; everything else the bytes that must be read and written.
#include "cpu/kernels.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace {

using selfedit::cpu::AdamWStep;
constexpr int64_t kH = 9, kG = 3, kD = 64, kC = 576, kF = 1536, kV = 49152;

std::vector<float> Normal(int64_t count, float deviation = 1) {
  static std::mt19937 engine(1);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& x : values) x = normal(engine);
  return values;
}

// One thread is timed by its processor time, so that other work on the machine matters little; more by the
// wall's clock.
double Seconds() {
  if (omp_get_max_threads() == 1) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Seconds a call: the best of ten runs of about 30 ms each.
double Best(const std::function<void()>& call) {
  call();
  const double before = Seconds();
  call();
  const int calls = static_cast<int>(0.03 / std::max(Seconds() - before, 1e-6)) + 1;
  double best = 1e9;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const double start = Seconds();
    for (int i = 0; i < calls; ++i) call();
    best = std::min(best, (Seconds() - start) / calls);
  }
  return best;
}

void Print(const std::string& name, double seconds, double amount, const char* unit) {
  std::printf("%-9s %-46s %9.1f us  %8.1f %s\n", selfedit::cpu::SimdName(), name.c_str(), seconds * 1e6,
              amount / seconds * 1e-9, unit);
}

void Attention(int64_t documents, int64_t length) {
  std::vector<int32_t> offsets;
  for (int64_t t = 0; t <= documents; ++t) offsets.push_back(static_cast<int32_t>(t * length));
  const int64_t n = documents * length;
  const auto q = Normal(n * kH * kD), k = Normal(n * kG * kD), v = Normal(n * kG * kD),
             dout = Normal(n * kH * kD);
  std::vector<float> out(q.size()), lse(n * kH), dq(q.size()), dk(k.size()), dv(k.size());
  const double pairs = static_cast<double>(documents) * kH * length * (length + 1) / 2;
  const std::string shape = std::to_string(documents) + " documents of " + std::to_string(length);
  Print("attention forward, " + shape, Best([&] {
          selfedit::cpu::AttentionForward<float>(q.data(), k.data(), v.data(), offsets.data(), nullptr,
                                                 documents, kH, kG, kD, 0.125f, 0, out.data(), lse.data());
        }),
        4 * kD * pairs, "GFLOP/s");
  Print("attention backward, " + shape, Best([&] {
          selfedit::cpu::AttentionBackward<float>(q.data(), k.data(), v.data(), out.data(), lse.data(),
                                                  dout.data(), offsets.data(), nullptr, documents, kH, kG, kD,
                                                  0.125f, 0, dq.data(), dk.data(), dv.data());
        }),
        10 * kD * pairs, "GFLOP/s");
}

void Decode(int64_t rows, int64_t length) {
  const auto q = Normal(rows * kH * kD), k = Normal(rows * length * kG * kD),
             v = Normal(rows * length * kG * kD);
  std::vector<float> out(q.size());
  std::vector<const float*> keys, values, none(rows, nullptr);
  for (int64_t b = 0; b < rows; ++b) {
    keys.push_back(k.data() + b * length * kG * kD);
    values.push_back(v.data() + b * length * kG * kD);
  }
  const std::vector<int32_t> zero(rows, 0), lengths(rows, static_cast<int32_t>(length));
  Print("attention decode, " + std::to_string(rows) + " rows, " + std::to_string(length) + " keys", Best([&] {
          selfedit::cpu::AttentionDecode<float>(q.data(), none.data(), none.data(), zero.data(), keys.data(),
                                                values.data(), lengths.data(), rows, kH, kG, kD, 0.125f,
                                                out.data());
        }),
        2.0 * rows * length * kG * kD * sizeof(float), "GB/s");
}

void Rows(int64_t n) {
  const auto x = Normal(n * kC), w = Normal(kC), dy = Normal(n * kC);
  std::vector<float> y(x.size()), rstd(n), dx(x.size());
  const double bytes = static_cast<double>(n) * kC * sizeof(float);
  const std::string rows = ", " + std::to_string(n) + " rows";
  Print("RMSNorm forward" + rows, Best([&] {
          selfedit::cpu::RmsNormForward<float>(x.data(), w.data(), n, kC, 1e-5f, y.data(), rstd.data());
        }),
        2 * bytes, "GB/s");
  Print("RMSNorm backward" + rows, Best([&] {
          selfedit::cpu::RmsNormBackward<float>(x.data(), w.data(), rstd.data(), dy.data(), n, kC, true,
                                                dx.data());
        }),
        4 * bytes, "GB/s");
  std::vector<int32_t> position(n);
  for (int64_t i = 0; i < n; ++i) position[i] = static_cast<int32_t>(i % 128);
  const auto cos = Normal(128 * kD / 2), sin = Normal(128 * kD / 2);
  auto rotated = Normal(n * kH * kD);
  Print("rotation" + rows, Best([&] {
          selfedit::cpu::Rope<float>(rotated.data(), position.data(), cos.data(), sin.data(), n, kH, kD, 1);
        }),
        2 * bytes, "GB/s");
  const auto gate = Normal(n * kF), up = Normal(n * kF), dact = Normal(n * kF);
  std::vector<float> act(gate.size()), dgate(gate.size()), dup(gate.size());
  Print("SwiGLU forward" + rows,
        Best([&] { selfedit::cpu::SwiGluForward<float>(gate.data(), up.data(), n * kF, act.data()); }),
        3.0 * n * kF * sizeof(float), "GB/s");
  Print("SwiGLU backward" + rows, Best([&] {
          selfedit::cpu::SwiGluBackward<float>(gate.data(), up.data(), dact.data(), n * kF, dgate.data(),
                                               dup.data());
        }),
        5.0 * n * kF * sizeof(float), "GB/s");
}

void Head(int64_t rows) {
  auto logits = Normal(rows * kV, 3);
  const auto other = Normal(rows * kV, 3), g = Normal(rows), e = Normal(rows);
  std::vector<int32_t> target(rows, 5), token(rows);
  std::vector<float> logprob(rows), lse(rows), entropy(rows), kl(rows);
  const double bytes = static_cast<double>(rows) * kV * sizeof(float);
  const std::string name = ", " + std::to_string(rows) + " rows";
  using selfedit::cpu::LogSoftmaxRows;
  Print("log-softmax" + name, Best([&] {
          LogSoftmaxRows<float>(logits.data(), target.data(), rows, kV, 1, logprob.data(), lse.data(),
                                nullptr);
        }),
        bytes, "GB/s");
  Print("log-softmax with entropy" + name, Best([&] {
          LogSoftmaxRows<float>(logits.data(), target.data(), rows, kV, 1, logprob.data(), lse.data(),
                                entropy.data());
        }),
        bytes, "GB/s");
  Print("KL" + name,
        Best([&] { selfedit::cpu::KlRows<float>(logits.data(), other.data(), rows, kV, kl.data()); }),
        2 * bytes, "GB/s");
  std::vector<uint64_t> key(rows);
  std::vector<int64_t> position(rows, 3);
  for (int64_t r = 0; r < rows; ++r) key[r] = 77 + r;
  struct Setting {
    const char* name;
    float temperature, top_p;
    int32_t top_k;
  };
  for (const Setting& s :
       {Setting{"sampling, greedy", 0, 1, 0}, Setting{"sampling", 1, 1, 0},
        Setting{"sampling, top-k 50", 1, 1, 50}, Setting{"sampling, top-p 0.9", 1, 0.9f, 0},
        Setting{"sampling, top-p 0.9, temperature 0.3", 0.3f, 0.9f, 0}}) {
    const std::vector<float> temperature(rows, s.temperature), top_p(rows, s.top_p);
    const std::vector<int32_t> top_k(rows, s.top_k);
    Print(s.name + name, Best([&] {
            selfedit::cpu::SampleRows<float>(logits.data(), rows, kV, temperature.data(), top_p.data(),
                                             top_k.data(), key.data(), position.data(), token.data(),
                                             logprob.data());
          }),
          bytes, "GB/s");
  }
  // Last, because it overwrites the logits.
  Print("log-softmax backward" + name, Best([&] {
          selfedit::cpu::LogSoftmaxRowsBackward<float>(logits.data(), target.data(), lse.data(), g.data(),
                                                       nullptr, nullptr, rows, kV, 1);
        }),
        2 * bytes, "GB/s");
  Print("log-softmax and entropy backward" + name, Best([&] {
          selfedit::cpu::LogSoftmaxRowsBackward<float>(logits.data(), target.data(), lse.data(), g.data(),
                                                       e.data(), entropy.data(), rows, kV, 1);
        }),
        2 * bytes, "GB/s");
}

void Optimizer(int64_t count) {
  auto value = Normal(count), first = Normal(count), second = Normal(count);
  for (float& x : second) x = std::abs(x);
  const auto grad = Normal(count);
  const AdamWStep step{count, 1e-3, 0.9, 0.999, 1e-8, 0.01, 1, 10};
  Print("AdamW, " + std::to_string(count) + " values", Best([&] {
          selfedit::cpu::AdamW<float>(value.data(), first.data(), second.data(), grad.data(), step);
        }),
        8.0 * count * sizeof(float), "GB/s");
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  omp_set_num_threads(threads);
  std::printf("%d thread%s\n", threads, threads == 1 ? "" : "s");
  std::vector<std::string> names(argv + std::min(argc, 2), argv + argc);
  if (names.empty()) names = {"avx512", "avx2", "portable"};
  for (const std::string& name : names) {
    if (!selfedit::cpu::SelectSimd(name.c_str())) {
      std::printf("%s: not on this machine\n", name.c_str());
      continue;
    }
    Attention(32, 50);
    Attention(16, 100);
    Attention(12, 128);
    Attention(1, 2048);
    Decode(64, 200);
    Decode(8, 2000);
    Rows(1024);
    Head(16);
    Optimizer(1843200);
  }
}
