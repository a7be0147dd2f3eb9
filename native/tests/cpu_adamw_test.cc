// AdamW against torch.optim.AdamW (table made by scripts/fixtures/adamw.py) and against itself on other
// threads.
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

struct AdamWCase {
  const char* name;
  bool wide;  // float64
  double learning_rate, beta1, beta2, epsilon, weight_decay, clip;
  std::vector<double> start, grads, after, first_moment, second_moment,
      norms;  // grads, after: one row a step
};

#include "cpu_adamw_fixture.inc"

template <typename T>
void Compare(const AdamWCase& c) {
  SCOPED_TRACE(c.name);
  const int64_t count = static_cast<int64_t>(c.start.size()), steps = static_cast<int64_t>(c.norms.size());
  std::vector<T> value(c.start.begin(), c.start.end()), m(count, 0), v(count, 0);
  // One rounding of a value near 1, or of a moment, a step: torch may fuse where we do not, and the reverse.
  const double tolerance = sizeof(T) == 4 ? 2e-7 : 4e-16;
  for (int64_t s = 0; s < steps; ++s) {
    const std::vector<T> grad(c.grads.begin() + s * count, c.grads.begin() + (s + 1) * count);
    const double norm =
        AdamW<T>(value.data(), m.data(), v.data(), grad.data(),
                 {count, c.learning_rate, c.beta1, c.beta2, c.epsilon, c.weight_decay, c.clip, s + 1});
    EXPECT_NEAR(norm, c.norms[s], 1e-12 * c.norms[s]);
    for (int64_t i = 0; i < count; ++i) {
      const double expected = c.after[s * count + i];
      ASSERT_NEAR(value[i], expected, tolerance * (1 + std::abs(expected)))
          << "step " << s + 1 << ", value " << i;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    EXPECT_NEAR(m[i], c.first_moment[i], 4 * tolerance * std::abs(c.first_moment[i]) + 1e-30);
    EXPECT_NEAR(v[i], c.second_moment[i], 4 * tolerance * std::abs(c.second_moment[i]) + 1e-30);
  }
}

TEST(CpuAdamW, AgreesWithTorch) {
  ASSERT_EQ(kAdamWCases.size(), 4u);
  ForEachSimd([] {
    for (const AdamWCase& c : kAdamWCases) c.wide ? Compare<double>(c) : Compare<float>(c);
  });
}

template <typename T>
class CpuAdamWTyped : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuAdamWTyped, Types);

// Sizes around those of vectors and blocks, against the formula in double; the gradient stays as it was.
TYPED_TEST(CpuAdamWTyped, AgreesWithFormula) {
  using T = TypeParam;
  for (int64_t count : {0, 1, 15, 17, 4095, 4096, 4097, 50001}) {
    const auto start = Normal<T>(count, 1), grad = Normal<T>(count, 2), first = Normal<T>(count, 3, 0.1);
    auto second = Normal<T>(count, 4, 0.1);
    for (T& x : second) x *= x;
    double squares = 0;
    for (T x : grad) squares += static_cast<double>(x) * x;
    std::vector<double> expected;
    const double factor = std::min(1.0, 0.7 / (std::sqrt(squares) + 1e-6));
    for (int64_t i = 0; i < count; ++i) {
      const double g = grad[i] * factor, m = 0.9 * first[i] + 0.1 * g, v = 0.99 * second[i] + 0.01 * g * g;
      expected.push_back(start[i] * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - std::pow(0.9, 3))) /
                                                           (std::sqrt(v / (1 - std::pow(0.99, 3))) + 1e-8));
    }
    ForEachSimd([&] {
      auto value = start, m = first, v = second;
      auto g = grad;
      const double norm =
          AdamW<T>(value.data(), m.data(), v.data(), g.data(), {count, 0.01, 0.9, 0.99, 1e-8, 0.1, 0.7, 3});
      EXPECT_NEAR(norm, std::sqrt(squares), 1e-12 * (1 + norm));
      EXPECT_LT(Difference(value, expected), kTolerance<T>) << count;
      EXPECT_TRUE(SameBits(g, grad));
    });
  }
}

TYPED_TEST(CpuAdamWTyped, SameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const int64_t count = 100003;
  const auto grad = Normal<T>(count, 5);
  ForEachSimd([&] {
    std::vector<std::vector<T>> results;
    std::vector<double> norms;
    for (int threads : {1, 2, 3}) {
      const Threads set(threads);
      auto value = Normal<T>(count, 6);
      std::vector<T> m(count, 0), v(count, 0);
      for (int64_t step = 1; step <= 3; ++step) {
        norms.push_back(AdamW<T>(value.data(), m.data(), v.data(), grad.data(),
                                 {count, 0.01, 0.9, 0.999, 1e-8, 0.01, 1, step}));
      }
      results.push_back(value);
    }
    EXPECT_TRUE(SameBits(results[0], results[1]) && SameBits(results[0], results[2]));
    EXPECT_EQ(norms[0], norms[3]);
    EXPECT_EQ(norms[0], norms[6]);
  });
}

TEST(CpuAdamW, NanInTheGradientIsNotHidden) {
  ForEachSimd([] {
    std::vector<float> value(20, 1), m(20, 0), v(20, 0), grad(20, 0.5f);
    grad[17] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(
        AdamW<float>(value.data(), m.data(), v.data(), grad.data(), {20, 0.01, 0.9, 0.999, 1e-8, 0, 1, 1})));
  });
}

}  // namespace
}  // namespace selfedit::cpu
