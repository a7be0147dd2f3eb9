// AdamW over stacked slots against the textbook form in double, and against the CPU kernel of one slot.
#include "cpu/kernels.h"
#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaAdamW : public CudaTest {};  // the parameter is the shadow's type
SELFEDIT_CUDA_TYPES(CudaAdamW);

struct Slots {
  int64_t S, count;
  Array<float> value, first, second, gradient;
  Tensor shadow;
  Array<SlotOptimizer> optimizer;
  Array<double> partial, norm;
  Array<int32_t> failed;
  Slots(Type type, int64_t S, int64_t count, const std::vector<SlotOptimizer>& optimizers,
        const std::vector<double>& gradients)
      : S(S),
        count(count),
        value(Floats(Normal(S * count, 1))),
        first(S * count, 0.0f),
        second(S * count, 0.0f),
        gradient(Floats(gradients)),
        shadow(type, std::vector<double>(S * count, -5)),
        optimizer(optimizers),
        partial(S * kNormParts, NAN),
        norm(S, -1.0),
        failed(S, 0) {}
  AdamWSlots Arguments(Type type, const Array<double>& rate, const Array<int32_t>& step) const {
    return {S,
            count,
            value.data(),
            first.data(),
            second.data(),
            gradient.data(),
            shadow.data(),
            type,
            optimizer.data(),
            rate.data(),
            step.data(),
            partial.data(),
            norm.data(),
            failed.data()};
  }
};

TEST_P(CudaAdamW, ThreeStepsOfSlotsWithSettingsOfTheirOwn) {
  const Type type = GetParam();
  for (const int64_t count : {1, 37, 1024, 40000}) {
    const int64_t S = 4;
    const std::vector<SlotOptimizer> optimizers = {
        {}, {0.8, 0.95, 1e-6, 0.1, 0}, {0.9, 0.999, 1e-8, 0.01, 1}, {0, 0.5, 1e-3, 0, 0.1}};
    const std::vector<double> gradients = Normal(S * count, 2);
    const Slots slots(type, S, count, optimizers, gradients);
    std::vector<double> x = Wide(slots.value.Read()), m(S * count, 0), v(S * count, 0);
    for (int32_t step = 1; step <= 3; ++step) {
      // Slot 1 sits the second step out.
      const std::vector<int32_t> steps = {step, step == 2 ? 0 : step == 3 ? 2 : 1, step, step};
      const std::vector<double> rates = {1e-2, 3e-2, 1e-3 * step, 0.1};
      AdamW(slots.Arguments(type, Array<double>(rates), Array<int32_t>(steps)), nullptr);
      for (int64_t s = 0; s < S; ++s) {
        if (steps[s] == 0) continue;
        const SlotOptimizer& o = optimizers[s];
        double norm = 0;
        for (int64_t i = s * count; i < (s + 1) * count; ++i) {
          norm += static_cast<double>(static_cast<float>(gradients[i])) * static_cast<float>(gradients[i]);
        }
        norm = std::sqrt(norm);
        EXPECT_NEAR(slots.norm.Read()[s], norm, 1e-12 * norm);
        const double clip = o.clip > 0 ? std::min(1.0, o.clip / (norm + 1e-6)) : 1;
        for (int64_t i = s * count; i < (s + 1) * count; ++i) {
          const double g = static_cast<float>(gradients[i]) * clip;
          m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
          v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
          const double m_hat = m[i] / (1 - std::pow(o.beta1, steps[s]));
          const double v_hat = v[i] / (1 - std::pow(o.beta2, steps[s]));
          x[i] -= rates[s] * o.weight_decay * x[i];
          x[i] -= rates[s] * m_hat / (std::sqrt(v_hat) + o.epsilon);
        }
      }
      EXPECT_LT(Difference(Wide(slots.value.Read()), x), 1e-6) << "count " << count << ", step " << step;
      EXPECT_LT(Difference(Wide(slots.first.Read()), m), 1e-6);
      EXPECT_LT(Difference(Wide(slots.second.Read()), v), 1e-6);
      EXPECT_EQ(slots.shadow.Read(), Rounded(type, Wide(slots.value.Read())));
    }
    EXPECT_EQ(slots.failed.Read(), std::vector<int32_t>(S, 0));
  }
}

TEST_P(CudaAdamW, AgreesWithTheCpuKernel) {
  const int64_t count = 5000;
  const SlotOptimizer o{0.9, 0.99, 1e-8, 0.05, 0.7};
  const Slots slots(GetParam(), 1, count, {o}, Normal(count, 3));
  std::vector<float> x = slots.value.Read(), m(count, 0), v(count, 0);
  const std::vector<float> g = slots.gradient.Read();
  for (int32_t step = 1; step <= 4; ++step) {
    AdamW(slots.Arguments(GetParam(), Array<double>({0.02}), Array<int32_t>({step})), nullptr);
    const double norm =
        cpu::AdamW<float>(x.data(), m.data(), v.data(), g.data(),
                          {count, 0.02, o.beta1, o.beta2, o.epsilon, o.weight_decay, o.clip, step});
    EXPECT_NEAR(slots.norm.Read()[0], norm, 1e-12 * norm);
    EXPECT_LT(Difference(Wide(slots.value.Read()), Wide(x)), 1e-6);
  }
}

TEST_P(CudaAdamW, AGradientThatIsNotFiniteIsToldAndNotApplied) {
  const int64_t count = 300;
  std::vector<double> gradients = Normal(3 * count, 4);
  gradients[count + 7] = NAN;
  gradients[2 * count + 299] = INFINITY;
  const Slots slots(GetParam(), 3, count, std::vector<SlotOptimizer>(3), gradients);
  const std::vector<float> before = slots.value.Read();
  for (const int32_t step : {1, 2}) {
    AdamW(slots.Arguments(GetParam(), Array<double>(3, 0.1), Array<int32_t>({step, step + 4, step})),
          nullptr);
  }
  const std::vector<float> after = slots.value.Read();
  EXPECT_NE(after[5], before[5]);
  EXPECT_TRUE(std::equal(after.begin() + count, after.end(), before.begin() + count));
  EXPECT_EQ(slots.failed.Read(), (std::vector<int32_t>{0, 5, 1}));
  EXPECT_TRUE(std::isnan(slots.norm.Read()[1]));
}

}  // namespace
}  // namespace selfedit::cuda::testing
