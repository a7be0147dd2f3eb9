// The hand-written backward through the whole model against central finite differences, in float64, for
// deltas on every module: grouped-query attention, biases, rotary scaling, stacked frozen deltas, ragged
// rows, masks; windows, norms and activations of every architecture.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/adapt.h"
#include "core/policy.h"
#include "core/random.h"
#include "core/score.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

// Objective with every term; values that put some tokens beyond the clip range.
PolicyStepSpec Objective(const Ragged& rows, bool value_head) {
  PolicyStepSpec spec;
  spec.rows = rows;
  const size_t n = rows.tokens.size();
  const std::vector<double> u = Uniform(99, static_cast<int64_t>(6 * n));
  for (size_t t = 0; t < n; ++t) {
    spec.action_mask.push_back(u[t] < 0.8);
    spec.old_logprobs.push_back(static_cast<float>(-3.6 + 0.8 * u[n + t]));
    spec.reference_logprobs.push_back(static_cast<float>(-4.0 + u[2 * n + t]));
    spec.advantages.push_back(static_cast<float>(2 * u[3 * n + t] - 1));
    if (value_head) {
      spec.returns.push_back(static_cast<float>(u[4 * n + t]));
      spec.old_values.push_back(static_cast<float>(u[5 * n + t]));
    }
  }
  for (int64_t r = 0; r < rows.rows(); ++r) spec.action_mask[rows.offsets[r]] = 0;
  spec.temperature = 0.7;
  spec.kl_coefficient = 0.3;
  spec.entropy_coefficient = 0.1;
  spec.normalizer = 17;
  spec.dry_run = true;
  return spec;
}

TEST(Gradient, PolicyStepAgreesWithFiniteDifferencesForEveryModule) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : TinyArchitectures()) {
    SCOPED_TRACE(config.architecture);
    const auto model = Model::Random(config, Dtype::kFloat64, 7, 0.5);
    PolicySpec policy_spec;
    policy_spec.matrices.resize(model->tensors().size());  // embeddings, head, gains and biases too
    std::iota(policy_spec.matrices.begin(), policy_spec.matrices.end(), 0);
    policy_spec.rank = 2;
    policy_spec.alpha = 3;
    policy_spec.value_head = true;
    Policy policy(model, policy_spec);
    std::vector<double> values = policy.Parameters();
    const std::vector<double> noise = Uniform(5, static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) values[i] += 0.4 * (noise[i] - 0.5);
    policy.SetParameters(values);
    const PolicyStepSpec spec = Objective(TinyRows({9, 1, 14, 2, 5}, 3), true);
    const JobControl control;
    policy.Step(spec, control);
    const std::vector<double> gradient = policy.Gradients();
    ASSERT_EQ(gradient.size(), values.size());
    double norm = 0;
    for (const double g : gradient) norm += g * g;
    ASSERT_GT(std::sqrt(norm), 0.01);
    // The trunk is detached from the value loss: the delta's values do not see it, the value head sees
    // nothing else.
    const size_t head = values.size() - config.hidden_size - 1;
    auto loss_for = [&](size_t i) {
      const PolicyStepStats stats = policy.Step(spec, control);
      return i < head ? stats.loss - stats.value_loss : stats.value_loss;
    };
    int compared = 0;
    for (size_t i = 0; i < values.size(); i += i < head ? 7 : 1) {
      const double step = 1e-5;
      std::vector<double> moved = values;
      moved[i] = values[i] + step;
      policy.SetParameters(moved);
      const double up = loss_for(i);
      moved[i] = values[i] - step;
      policy.SetParameters(moved);
      const double down = loss_for(i);
      const double expected = (up - down) / (2 * step);
      EXPECT_NEAR(gradient[i], expected, 1e-6 * std::max(1.0, std::abs(expected))) << "value " << i;
      ++compared;
    }
    EXPECT_GT(compared, 100);
  }
}

TEST(Gradient, OneAdaptStepFollowsTheGradientAboveAFrozenDelta) {
  // With beta1 = beta2 = 0 and a large epsilon AdamW moves by rate * g / (|g| + eps): the step tells the
  // gradient.
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 11, 0.5);
  auto delta = [&](int64_t matrix, int64_t rank, uint64_t key) {
    const MatrixInfo& info = model->matrices()[matrix];
    auto fill = [&](int64_t rows, int64_t columns, uint64_t k) {
      at::Tensor t = at::empty({rows, columns}, at::kDouble);
      const std::vector<double> u = Uniform(k, rows * columns);
      for (int64_t i = 0; i < rows * columns; ++i) t.mutable_data_ptr<double>()[i] = u[i] - 0.5;
      return t;
    };
    return DeltaPart::LowRank(matrix, fill(rank, info.in, key), fill(info.out, rank, key + 1), 0.7);
  };
  auto parent = std::make_shared<Delta>();
  parent->parts = {delta(0, 3, 20), delta(9, 2, 30), delta(20, 4, 40)};
  auto start = std::make_shared<Delta>();
  start->parts = {delta(3, 2, 50), delta(9, 2, 60), delta(16, 2, 70)};

  AdaptSpec spec;
  spec.model = model;
  spec.documents = TinyRows({12, 8, 6}, 8);
  for (size_t t = 0; t < spec.documents.tokens.size(); ++t) spec.loss_mask.push_back(t % 3 != 1);
  SlotSpec slot;
  slot.stack = {{parent, 1.0}};
  slot.last_document = 3;
  slot.batch_size = 3;
  slot.rank = 2;
  slot.epochs = 1;
  slot.schedule = Schedule::kConstant;
  slot.learning_rate = 1;
  slot.beta1 = slot.beta2 = 0;
  slot.epsilon = 1e6;
  slot.clip = 0;
  slot.shuffle = false;
  slot.matrices = {3, 9, 16};
  slot.init = start;
  spec.slots = {slot};
  const JobControl control;
  const AdaptResult result = Adapt(spec, control);

  auto loss_at = [&](const DeltaPtr& changed) {
    ScoreSpec score;
    score.model = model;
    score.rows = spec.documents;
    score.forks = {{{parent, 1.0}, {changed, 1.0}}};
    score.row_fork = {0, 0, 0};
    const std::vector<double> logprobs = Score(score, control);
    double sum = 0;
    int count = 0;
    for (size_t t = 0; t < logprobs.size(); ++t) {
      if (std::isnan(logprobs[t]) || spec.loss_mask[t] == 0) continue;
      sum -= logprobs[t];
      ++count;
    }
    return sum / count;
  };
  EXPECT_NEAR(result.loss[0][0], loss_at(start), 1e-12);
  for (size_t p = 0; p < start->parts.size(); ++p) {
    for (const bool b : {false, true}) {
      const at::Tensor& before = b ? start->parts[p].b : start->parts[p].a;
      const at::Tensor& after = b ? result.deltas[0]->parts[p].b : result.deltas[0]->parts[p].a;
      for (int64_t i = 0; i < before.numel(); i += 3) {
        const double gradient = (before.data_ptr<double>()[i] - after.const_data_ptr<double>()[i]) * 1e6;
        auto shifted = [&](double step) {
          auto copy = std::make_shared<Delta>(*start);
          at::Tensor& values = b ? copy->parts[p].b : copy->parts[p].a;
          values = values.clone();
          values.data_ptr<double>()[i] += step;
          return loss_at(copy);
        };
        const double expected = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        EXPECT_NEAR(gradient, expected, 2e-6 * std::max(1.0, std::abs(expected)))
            << "part " << p << " value " << i;
      }
    }
  }
}

TEST(Gradient, DivergenceAgreesWithItsDefinition) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 13, 0.5);
  auto delta = std::make_shared<Delta>();
  delta->parts = {
      DeltaPart::LowRank(2, at::full({1, 12}, 0.3, at::kDouble), at::full({8, 1}, 0.4, at::kDouble), 1.0)};
  const Ragged rows = TinyRows({7, 4}, 21);
  DivergenceSpec spec;
  spec.model = model;
  spec.rows = rows;
  spec.forks = {{{delta, 1.0}}, {}};
  spec.row_fork = {0, 1};
  spec.row_reference = {1, 1};
  const JobControl control;
  const std::vector<double> found = Divergence(spec, control);
  // From the log-probs of every possible next token.
  for (int64_t position = 0; position < rows.length(0); ++position) {
    ScoreSpec score;
    score.model = model;
    score.forks = spec.forks;
    for (int32_t next = 0; next < 37; ++next) {
      std::vector<int32_t> row(rows.tokens.begin(), rows.tokens.begin() + position + 1);
      row.push_back(next);
      score.rows.Append(row.data(), static_cast<int64_t>(row.size()));
      score.row_fork.push_back(0);
    }
    const std::vector<double> p = Score(score, control);
    std::fill(score.row_fork.begin(), score.row_fork.end(), 1);
    const std::vector<double> q = Score(score, control);
    double expected = 0;
    for (int32_t next = 0; next < 37; ++next) {
      const size_t at = static_cast<size_t>(score.rows.offsets[next + 1]) - 1;
      expected += std::exp(p[at]) * (p[at] - q[at]);
    }
    EXPECT_NEAR(found[position], expected, 1e-9);
    EXPECT_GT(expected, 0);
  }
  for (size_t t = 7; t < found.size(); ++t) EXPECT_NEAR(found[t], 0, 1e-12);  // a fork against itself
}

TEST(Adapt, SchedulesFollowTransformers) {
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kConstant, 9, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kLinear, 0, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kLinear, 9, 0, 10), 0.1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kLinear, 1, 4, 10), 0.25);
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kLinear, 7, 4, 10), 0.5);
  EXPECT_DOUBLE_EQ(ScheduleFactor(Schedule::kCosine, 7, 4, 10), 0.5);
  EXPECT_NEAR(ScheduleFactor(Schedule::kCosine, 10, 4, 10), 0.0, 1e-15);
}

TEST(Adapt, RefilledSlotsBecomeWhatTheyBecomeTogether) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 17, 0.3);
  AdaptSpec spec;
  spec.model = model;
  spec.documents = TinyRows({5, 9, 7, 6, 11, 4, 8, 3}, 31);
  for (int s = 0; s < 4; ++s) {
    SlotSpec slot;
    slot.first_document = 2 * s;
    slot.last_document = 2 * s + 2;
    slot.rank = 2 + s;
    slot.epochs = 1 + s;
    slot.key = 100 + s;
    slot.matrices = {0, 2, 10};
    spec.slots.push_back(slot);
  }
  const JobControl control;
  const AdaptResult together = Adapt(spec, control);
  spec.max_active_slots = 1;
  spec.max_step_tokens = 8;
  const AdaptResult queued = Adapt(spec, control);
  EXPECT_GT(queued.steps, together.steps);
  for (int s = 0; s < 4; ++s) {
    EXPECT_EQ(together.loss[s], queued.loss[s]);
    for (size_t p = 0; p < 3; ++p) {
      EXPECT_TRUE(at::equal(together.deltas[s]->parts[p].a, queued.deltas[s]->parts[p].a));
      EXPECT_TRUE(at::equal(together.deltas[s]->parts[p].b, queued.deltas[s]->parts[p].b));
    }
  }
}

}  // namespace
}  // namespace selfedit
