// Rows over the vocabulary against softmax in double, and finite differences of it.
#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaHead : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaHead);

std::vector<double> LogSoftmax(const std::vector<double>& logits, int64_t r, int64_t V, double temperature) {
  double most = -INFINITY, sum = 0;
  for (int64_t j = 0; j < V; ++j) most = std::max(most, logits[r * V + j] / temperature);
  for (int64_t j = 0; j < V; ++j) sum += std::exp(logits[r * V + j] / temperature - most);
  std::vector<double> result(V);
  for (int64_t j = 0; j < V; ++j) result[j] = logits[r * V + j] / temperature - most - std::log(sum);
  return result;
}
double Entropy(const std::vector<double>& logprobs) {
  double entropy = 0;
  for (double x : logprobs) entropy -= x > -INFINITY ? std::exp(x) * x : 0;
  return entropy;
}

constexpr int64_t kRows = 5;
const std::vector<int64_t> kVocabularies = {1, 7, 64, 513, 4096};

// Rows: ordinary, sharp, flat and large, with -inf, and one without a target (row 3).
std::vector<double> Logits(Type type, int64_t V) {
  std::vector<double> logits = Normal(kRows * V, V, 2);
  for (int64_t j = 0; j < V; ++j) {
    logits[V + j] *= 20;
    logits[2 * V + j] = 200 + logits[2 * V + j] / 8;
  }
  if (V > 10) logits[4 * V + 3] = logits[4 * V + V - 1] = -INFINITY;
  return Rounded(type, logits);
}
std::vector<int32_t> Targets(int64_t V) {
  const int32_t last = static_cast<int32_t>(V) - 1;
  return {0, last, last / 2, -1, last / 3};
}

TEST_P(CudaHead, LogSoftmaxRowsAndTheirGradients) {
  const Type type = GetParam();
  for (const int64_t V : kVocabularies) {
    for (const float temperature : {1.0f, 0.7f}) {
      SCOPED_TRACE("V " + std::to_string(V));
      const std::vector<double> logits = Logits(type, V);
      const std::vector<int32_t> targets = Targets(V);
      const std::vector<double> g = {1, -0.5, 2, 3, 0.25}, e = {0.5, 0, -1, 2, 1};
      const Tensor device(type, logits);
      const Array<int32_t> target(targets);
      const Array<float> logprob(kRows, -9.0f), lse(kRows, -9.0f), entropy(kRows, -9.0f), gs(Floats(g)),
          es(Floats(e));
      LogSoftmaxRows(type, device.data(), target.data(), kRows, V, temperature, logprob.data(), lse.data(),
                     entropy.data(), nullptr);
      std::vector<double> gradient(kRows * V, 0), logprobs(kRows, 0), entropies(kRows, 0), lses(kRows, 0);
      for (int64_t r = 0; r < kRows; ++r) {
        if (targets[r] < 0) continue;
        const std::vector<double> log_p = LogSoftmax(logits, r, V, temperature);
        logprobs[r] = log_p[targets[r]];
        entropies[r] = Entropy(log_p);
        lses[r] = logits[r * V] / temperature - log_p[0];
        for (int64_t j = 0; j < V; ++j) {
          const double p = std::exp(log_p[j]);
          gradient[r * V + j] =
              (g[r] * ((j == targets[r]) - p) - (p > 0 ? e[r] * p * (log_p[j] + entropies[r]) : 0)) /
              temperature;
        }
        const auto loss = [&](const std::vector<double>& z) {
          const std::vector<double> of = LogSoftmax(z, r, V, temperature);
          return g[r] * of[targets[r]] + e[r] * Entropy(of);
        };
        for (const int64_t j : {int64_t{0}, V / 2, static_cast<int64_t>(targets[r])}) {
          if (std::isfinite(logits[r * V + j])) {
            EXPECT_NEAR(gradient[r * V + j], Numeric(loss, logits, r * V + j), 1e-5);
          }
        }
      }
      EXPECT_LT(Difference(Wide(logprob.Read()), logprobs, 1), kFloatTolerance);
      EXPECT_LT(Difference(Wide(lse.Read()), lses, 1), kFloatTolerance);
      EXPECT_LT(Difference(Wide(entropy.Read()), entropies, 1), kFloatTolerance);
      LogSoftmaxRowsBackward(type, device.data(), target.data(), lse.data(), gs.data(), es.data(),
                             entropy.data(), kRows, V, temperature, nullptr);
      // lse of a row of large logits is a float: its own rounding, 2^-25 of 300, shows in exp.
      EXPECT_LT(Difference(device.Read(), gradient, 1), std::max(Tolerance(type), 4e-5));
    }
  }
}

TEST_P(CudaHead, CrossEntropyAndLossOfSlots) {
  const Type type = GetParam();
  for (const int64_t V : kVocabularies) {
    const std::vector<double> logits = Logits(type, V), weights = {0.5, 0.125, 0.25, 0, 1};
    const std::vector<int32_t> targets = Targets(V);
    const Tensor device(type, logits);
    const Array<int32_t> target(targets), offsets({0, 2, 2, 5}), step(1, 1);
    const Array<float> weight(Floats(weights)), logprob(kRows, -9.0f), loss(3 * 2, -9.0f);
    CrossEntropy(type, device.data(), target.data(), weight.data(), kRows, V, logprob.data(), nullptr);
    const Segments segments{offsets.data(), 3, kRows};
    SlotLoss(segments, weight.data(), logprob.data(), step.data(), 2, loss.data(), nullptr);
    std::vector<double> gradient(kRows * V, 0), losses = {-9, -9, -9, 0, 0, 0};
    for (int64_t r = 0; r < kRows; ++r) {
      if (targets[r] < 0) continue;
      const std::vector<double> log_p = LogSoftmax(logits, r, V, 1);
      losses[r < 2 ? 3 : 5] -= weights[r] * log_p[targets[r]];
      for (int64_t j = 0; j < V; ++j) {
        gradient[r * V + j] = weights[r] * (std::exp(log_p[j]) - (j == targets[r]));
      }
    }
    EXPECT_LT(Difference(device.Read(), gradient), std::max(Tolerance(type), 4e-5)) << "V " << V;
    EXPECT_LT(Difference(Wide(loss.Read()), losses, 1), kFloatTolerance) << "V " << V;
    // A step beyond the end writes nothing; no step means row 0.
    const Array<int32_t> beyond(1, 2);
    const Array<float> untouched(6, -9.0f);
    SlotLoss(segments, weight.data(), logprob.data(), beyond.data(), 2, untouched.data(), nullptr);
    EXPECT_EQ(untouched.Read(), std::vector<float>(6, -9));
    SlotLoss(segments, weight.data(), logprob.data(), nullptr, 1, untouched.data(), nullptr);
    EXPECT_EQ(untouched.Read()[2], loss.Read()[5]);
  }
}

TEST_P(CudaHead, Divergence) {
  const Type type = GetParam();
  for (const int64_t V : kVocabularies) {
    std::vector<double> a = Rounded(type, Normal(kRows * V, 1, 2)),
                        b = Rounded(type, Normal(kRows * V, 2, 2));
    std::copy_n(a.begin(), V, b.begin());  // row 0: equal
    if (V > 10) a[3 * V + 5] = -INFINITY;  // p = 0 where q > 0
    const Tensor first(type, a), second(type, b);
    const Array<float> kl(kRows, -9.0f);
    KlRows(type, first.data(), second.data(), kRows, V, kl.data(), nullptr);
    std::vector<double> expected(kRows, 0);
    for (int64_t r = 0; r < kRows; ++r) {
      const std::vector<double> log_p = LogSoftmax(a, r, V, 1), log_q = LogSoftmax(b, r, V, 1);
      for (int64_t j = 0; j < V; ++j) {
        if (log_p[j] > -INFINITY) expected[r] += std::exp(log_p[j]) * (log_p[j] - log_q[j]);
      }
    }
    EXPECT_EQ(expected[0], 0);
    EXPECT_LT(Difference(Wide(kl.Read()), expected, 1), kFloatTolerance) << "V " << V;
  }
}

TEST_P(CudaHead, RowsThatAreNoDistribution) {
  const Type type = GetParam();
  const int64_t V = 100;
  std::vector<double> logits(2 * V, 1);
  logits[40] = NAN;
  logits[V + 99] = INFINITY;
  const Tensor device(type, logits);
  const Array<int32_t> target({3, 3});
  const Array<float> logprob(2, 0.0f);
  LogSoftmaxRows(type, device.data(), target.data(), 2, V, 1, logprob.data(), nullptr, nullptr, nullptr);
  EXPECT_TRUE(std::isnan(logprob.Read()[0]));
  EXPECT_FALSE(std::isfinite(logprob.Read()[1]));
}

}  // namespace
}  // namespace selfedit::cuda::testing
