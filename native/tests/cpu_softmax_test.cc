// Log-probabilities, entropy, divergence and their gradients, against sums in double.
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

template <typename T>
class CpuSoftmax : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuSoftmax, Types);

const std::vector<int64_t> kVocabularies = {1, 2, 7, 64, 65, 1000, 1025, 49152};
constexpr int64_t kRows = 5;

template <typename T>
std::vector<double> Row(const std::vector<T>& logits, int64_t r, int64_t V) {
  return {logits.begin() + r * V, logits.begin() + (r + 1) * V};
}

std::vector<int32_t> Targets(int64_t V) {
  std::vector<int32_t> target;
  for (int64_t r = 0; r < kRows; ++r) target.push_back(static_cast<int32_t>((r * 7919 + V - 1) % V));
  return target;
}

TYPED_TEST(CpuSoftmax, LogSoftmax) {
  using T = TypeParam;
  for (int64_t V : kVocabularies) {
    for (double temperature : {1.0, 0.6}) {
      auto logits = Normal<T>(kRows * V, V, 5);
      for (int64_t j = 0; j < V; ++j) logits[j] += 20;  // a row far from zero
      const auto target = Targets(V);
      ForEachSimd([&] {
        std::vector<T> logprob(kRows), lse(kRows), entropy(kRows), again(kRows), lse_again(kRows);
        LogSoftmaxRows<T>(logits.data(), target.data(), kRows, V, T(temperature), logprob.data(), lse.data(),
                          entropy.data());
        LogSoftmaxRows<T>(logits.data(), target.data(), kRows, V, T(temperature), again.data(),
                          lse_again.data(), nullptr);
        EXPECT_TRUE(SameBits(logprob, again) && SameBits(lse, lse_again));
        for (int64_t r = 0; r < kRows; ++r) {
          const auto row = Row(logits, r, V);
          const auto expected = twin::LogSoftmax(row, static_cast<double>(T(temperature)));
          // A float near 30 is known to 2e-6; the sums themselves must add less than 1e-6.
          const double tolerance = sizeof(T) == 4 ? 4e-6 : 1e-12;
          EXPECT_NEAR(logprob[r], expected[target[r]], tolerance) << V;
          EXPECT_NEAR(lse[r], row[0] / static_cast<double>(T(temperature)) - expected[0], tolerance) << V;
          EXPECT_NEAR(entropy[r], twin::Entropy(expected), sizeof(T) == 4 ? 2e-6 : 1e-12) << V;
        }
      });
    }
  }
}

// The sum of 49,152 terms by itself, with logits that float holds exactly.
TEST(CpuSoftmaxFloat, SumsStayBelowOneMillionth) {
  const int64_t V = 49152;
  std::vector<float> logits(V);
  for (int64_t j = 0; j < V; ++j) logits[j] = static_cast<float>((j * 2654435761u % 97) / 16.0 - 4);
  const auto expected = twin::LogSoftmax(Wide(logits));
  const int32_t target = 11;
  ForEachSimd([&] {
    float logprob, lse, entropy;
    LogSoftmaxRows<float>(logits.data(), &target, 1, V, 1, &logprob, &lse, &entropy);
    EXPECT_NEAR(logprob, expected[target], 1e-6);
    EXPECT_NEAR(entropy, twin::Entropy(expected), 1e-6);
  });
}

TYPED_TEST(CpuSoftmax, Backward) {
  using T = TypeParam;
  for (int64_t V : kVocabularies) {
    const double temperature = static_cast<T>(0.8);
    const auto logits = Normal<T>(kRows * V, V + 1, 3);
    const auto g = Normal<T>(kRows, 2), e = Normal<T>(kRows, 3);
    const auto target = Targets(V);
    std::vector<double> expected, without;
    std::vector<T> lse, entropy;
    for (int64_t r = 0; r < kRows; ++r) {
      const auto row = Row(logits, r, V);
      const auto lp = twin::LogSoftmax(row, temperature);
      lse.push_back(static_cast<T>(row[0] / temperature - lp[0]));
      const double mean = twin::Entropy(lp);
      entropy.push_back(static_cast<T>(mean));
      for (int64_t j = 0; j < V; ++j) {
        const double p = std::exp(lp[j]), first = g[r] * ((j == target[r]) - p) / temperature;
        without.push_back(first);
        expected.push_back(first - e[r] * p * (lp[j] + mean) / temperature);
      }
    }
    ForEachSimd([&] {
      auto both = logits, one = logits, zero = logits;
      LogSoftmaxRowsBackward<T>(both.data(), target.data(), lse.data(), g.data(), e.data(), entropy.data(),
                                kRows, V, T(0.8));
      LogSoftmaxRowsBackward<T>(one.data(), target.data(), lse.data(), g.data(), nullptr, nullptr, kRows, V,
                                T(0.8));
      const std::vector<T> none(kRows, 0);
      LogSoftmaxRowsBackward<T>(zero.data(), target.data(), lse.data(), g.data(), none.data(), entropy.data(),
                                kRows, V, T(0.8));
      EXPECT_TRUE(SameBits(zero, one));
      size_t at = 0;
      const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t j = 0; j < V; ++j, ++at) {
          ASSERT_NEAR(both[r * V + j], expected[at], tolerance) << V << " " << j;
          ASSERT_NEAR(one[r * V + j], without[at], tolerance) << V << " " << j;
        }
      }
    });
  }
}

TEST(CpuSoftmaxDouble, BackwardIsTheDerivative) {
  const int64_t V = 37;
  auto logits = Normal<double>(V, 4, 2);
  const int32_t target = 5;
  const double g = 0.7, e = -1.3;
  ForEachSimd([&] {
    double logprob, lse, entropy;
    const auto loss = [&] {
      LogSoftmaxRows<double>(logits.data(), &target, 1, V, 0.9, &logprob, &lse, &entropy);
      return g * logprob + e * entropy;
    };
    loss();
    auto gradient = logits;
    LogSoftmaxRowsBackward<double>(gradient.data(), &target, &lse, &g, &e, &entropy, 1, V, 0.9);
    for (int64_t j = 0; j < V; ++j) {
      const double before = logits[j], h = 1e-5;
      logits[j] = before + h;
      const double above = loss();
      logits[j] = before - h;
      const double below = loss();
      logits[j] = before;
      ASSERT_NEAR((above - below) / (2 * h), gradient[j], 1e-8) << j;
    }
  });
}

TYPED_TEST(CpuSoftmax, Divergence) {
  using T = TypeParam;
  for (int64_t V : kVocabularies) {
    for (double distance : {3.0, 1e-3}) {  // far and near
      const auto a = Normal<T>(kRows * V, 1, 4);
      auto b = Normal<T>(kRows * V, 2, distance);
      for (int64_t i = 0; i < kRows * V; ++i) b[i] = a[i] + b[i] + 2;
      ForEachSimd([&] {
        std::vector<T> kl(kRows), same(kRows);
        KlRows<T>(a.data(), b.data(), kRows, V, kl.data());
        KlRows<T>(a.data(), a.data(), kRows, V, same.data());
        for (int64_t r = 0; r < kRows; ++r) {
          const auto p = twin::LogSoftmax(Row(a, r, V)), q = twin::LogSoftmax(Row(b, r, V));
          double expected = 0;
          for (int64_t j = 0; j < V; ++j) expected += std::exp(p[j]) * (p[j] - q[j]);
          EXPECT_NEAR(kl[r], expected, sizeof(T) == 4 ? 1e-10 + 3e-6 * expected : 1e-14 + 1e-10 * expected)
              << V;
          EXPECT_EQ(same[r], 0) << V;
        }
      });
    }
  }
}

// d KL / d a by its definition, in place, and the divergence itself as without a gradient.
TYPED_TEST(CpuSoftmax, DivergenceGradient) {
  using T = TypeParam;
  for (const int64_t V : {1, 5, 37, 1500}) {
    const auto a = Normal<T>(kRows * V, 1, 2), b = Normal<T>(kRows * V, 2, 2);
    std::vector<T> weight(kRows);
    for (int64_t r = 0; r < kRows; ++r) weight[r] = T(0.3) * T(r) - T(0.5);
    ForEachSimd([&] {
      std::vector<T> gradient = a, kl(kRows), plain(kRows);
      KlRowsBackward<T>(gradient.data(), b.data(), weight.data(), kRows, V, kl.data());
      KlRows<T>(a.data(), b.data(), kRows, V, plain.data());
      EXPECT_TRUE(SameBits(kl, plain));
      for (int64_t r = 0; r < kRows; ++r) {
        const auto p = twin::LogSoftmax(Row(a, r, V)), q = twin::LogSoftmax(Row(b, r, V));
        double mean = 0;
        for (int64_t j = 0; j < V; ++j) mean += std::exp(p[j]) * (p[j] - q[j]);
        for (int64_t j = 0; j < V; ++j) {
          const double expected = weight[r] * std::exp(p[j]) * (p[j] - q[j] - mean);
          ASSERT_NEAR(gradient[r * V + j], expected,
                      sizeof(T) == 4 ? 1e-7 + 1e-5 * std::abs(expected) : 1e-12)
              << V << " " << j;
        }
      }
    });
  }
}

// Masked tokens have probability zero and do not disturb the others.
TYPED_TEST(CpuSoftmax, MinusInfinity) {
  using T = TypeParam;
  const int64_t V = 3000;
  auto logits = Normal<T>(V, 1, 2), other = Normal<T>(V, 2, 2);
  for (int64_t j = 0; j < V; ++j) {
    if (j < 1500 || j % 3 == 0) logits[j] = static_cast<T>(-kInfinity);
  }
  const int32_t target = 1501;
  const auto expected = twin::LogSoftmax(Wide(logits));
  const auto q = twin::LogSoftmax(Wide(other));
  double divergence = 0;
  for (int64_t j = 0; j < V; ++j) {
    if (expected[j] > -kInfinity) divergence += std::exp(expected[j]) * (expected[j] - q[j]);
  }
  ForEachSimd([&] {
    T logprob, lse, entropy, kl, g = 1, e = 1;
    LogSoftmaxRows<T>(logits.data(), &target, 1, V, 1, &logprob, &lse, &entropy);
    EXPECT_NEAR(logprob, expected[target], 2e-6);
    EXPECT_NEAR(entropy, twin::Entropy(expected), 2e-6);
    KlRows<T>(logits.data(), other.data(), 1, V, &kl);
    EXPECT_NEAR(kl, divergence, 2e-6);
    auto gradient = logits;
    LogSoftmaxRowsBackward<T>(gradient.data(), &target, &lse, &g, &e, &entropy, 1, V, 1);
    for (int64_t j = 0; j < V; ++j) {
      ASSERT_TRUE(std::isfinite(gradient[j])) << j;
      ASSERT_TRUE(expected[j] > -kInfinity || gradient[j] == 0) << j;
    }
  });
}

TYPED_TEST(CpuSoftmax, NanStaysVisible) {
  using T = TypeParam;
  for (int64_t V : {5, 2000}) {
    std::vector<T> logits(V, 1);
    logits[V - 1] = std::numeric_limits<T>::quiet_NaN();
    const int32_t target = 0;
    ForEachSimd([&] {
      T logprob, lse, kl;
      LogSoftmaxRows<T>(logits.data(), &target, 1, V, 1, &logprob, &lse, nullptr);
      EXPECT_TRUE(std::isnan(logprob) && std::isnan(lse));
      KlRows<T>(logits.data(), logits.data(), 1, V, &kl);
      EXPECT_TRUE(std::isnan(kl));
    });
  }
}

TYPED_TEST(CpuSoftmax, IndependentOfBatchMatesAndThreads) {
  using T = TypeParam;
  const int64_t V = 1111;
  const auto a = Normal<T>(kRows * V, 1, 3), b = Normal<T>(kRows * V, 2, 3);
  const auto target = Targets(V);
  const std::vector<T> g(kRows, T(0.3)), e(kRows, T(0.2));
  const auto run = [&](int64_t first, int64_t rows) {
    std::vector<T> logprob(rows), lse(rows), entropy(rows), kl(rows);
    std::vector<T> x(a.begin() + first * V, a.begin() + (first + rows) * V);
    KlRows<T>(x.data(), b.data() + first * V, rows, V, kl.data());
    LogSoftmaxRows<T>(x.data(), target.data() + first, rows, V, 1, logprob.data(), lse.data(),
                      entropy.data());
    LogSoftmaxRowsBackward<T>(x.data(), target.data() + first, lse.data(), g.data(), e.data(), entropy.data(),
                              rows, V, 1);
    return std::vector<std::vector<T>>{logprob, lse, entropy, kl, x};
  };
  ForEachSimd([&] {
    std::vector<std::vector<T>> together;
    {
      const Threads one(1);
      together = run(0, kRows);
    }
    const Threads two(2);
    const auto again = run(0, kRows);
    for (size_t o = 0; o < together.size(); ++o) EXPECT_TRUE(SameBits(again[o], together[o])) << o;
    for (int64_t r = 0; r < kRows; ++r) {
      const auto alone = run(r, 1);
      for (size_t o = 0; o < together.size(); ++o) {
        const int64_t width = o == 4 ? V : 1;
        EXPECT_TRUE(
            SameBits(alone[o], {together[o].begin() + r * width, together[o].begin() + (r + 1) * width}))
            << o;
      }
    }
  });
}

}  // namespace
}  // namespace selfedit::cpu
