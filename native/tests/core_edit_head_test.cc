// The edit head: gradients of its objective against central finite differences in float64, closed forms
// against sums over samples, draws, and files.
#include <filesystem>

#include "core/edit_head.h"
#include "core/score.h"
#include "core_delta_helpers.h"
#include "core_helpers.h"
#include "format/safetensors_writer.h"

namespace selfedit {
namespace {

using delta_test::ExpectCode;

EditHeadSpec TinyHead(bool learnt = true) {
  EditHeadSpec spec;
  spec.choices = {{0, SpaceKind::kModulated, 1}, {4, SpaceKind::kLowRank, 3}, {9, SpaceKind::kGradient, 3}};
  spec.learnt_basis = learnt;
  spec.key = 5;
  return spec;
}

std::vector<float> Floats(uint64_t key, int64_t count, double spread) {
  std::vector<float> values;
  for (const double u : Uniform(key, count)) values.push_back(static_cast<float>((2 * u - 1) * spread));
  return values;
}

void Move(EditHead* head, uint64_t key) {
  std::vector<double> values = head->Parameters();
  const std::vector<double> u = Uniform(key, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) values[i] += 2 * (u[i] - 0.5);
  head->SetParameters(values);
}

// Every term at once; old means and noise that put some blocks beyond the clip range.
HeadStepSpec Objective(const EditHead& head) {
  HeadStepSpec spec;
  const int64_t d = head.space().size(), c = head.features();
  spec.features = Floats(1, 3 * c, 1.7);
  spec.context = {0, 2, 1, 0, 2, 0};
  const std::vector<double> means = head.Means(spec.features);
  const std::vector<float> noise = Floats(2, 6 * d, 0.1), shift = Floats(3, 6 * d, 0.02);
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t j = 0; j < d; ++j) {
      const double mean = means[spec.context[i] * d + j];
      spec.vectors.push_back(static_cast<float>(mean + noise[i * d + j]));
      spec.old_means.push_back(static_cast<float>(mean + shift[i * d + j]));
    }
  }
  spec.old_noise = {0.06f, 0.05f, 0.045f};
  spec.advantages = {0.5f, -1.0f, 0.8f, -0.3f, 1.2f, 0.1f};
  spec.gradient = Floats(4, 3 * d, 2);
  if (head.learnt_basis()) spec.basis_gradient = Floats(6, head.space().basis_size(), 2);
  spec.kl_coefficient = 0.3;
  spec.dry_run = true;
  return spec;
}

TEST(EditHead, TheStepsGradientAgreesWithFiniteDifferences) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  EditHead head(model, TinyHead());
  head.SetNoise({0.06, 0.04, 0.05});
  Move(&head, 8);
  const HeadStepSpec spec = Objective(head);
  const HeadStepStats stats = head.Step(spec, JobControl());
  EXPECT_GT(stats.clip_fraction, 0);
  EXPECT_LT(stats.clip_fraction, 1);
  const std::vector<double> gradient = head.Gradients(), values = head.Parameters();
  double norm = 0;
  for (const double g : gradient) norm += g * g;
  EXPECT_NEAR(stats.grad_norm, std::sqrt(norm), 1e-9 * stats.grad_norm);
  for (size_t i = 0; i < values.size(); i += i < 91 ? 1 : 7) {
    const auto at = [&](double step) {
      std::vector<double> moved = values;
      moved[i] += step;
      head.SetParameters(moved);
      return head.Step(spec, JobControl()).loss;
    };
    const double expected = (at(1e-5) - at(-1e-5)) / 2e-5;
    EXPECT_NEAR(gradient[i], expected, 1e-6 * std::max(1.0, std::abs(expected))) << i;
  }
}

TEST(EditHead, TheObjectiveIsItsDefinition) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  EditHead head(model, TinyHead(false));
  head.SetNoise({0.06, 0.04, 0.05});
  Move(&head, 8);
  HeadStepSpec spec = Objective(head);
  spec.gradient.clear();
  const HeadStepStats stats = head.Step(spec, JobControl());
  const int64_t d = head.space().size();
  const std::vector<double> mu = head.Means(spec.features), sigma{0.06, 0.04, 0.05};
  double policy = 0, start = 0, old = 0, entropy = 0;
  const auto density = [](double z, double mean, double s) {
    return std::exp(-0.5 * (z - mean) * (z - mean) / (s * s)) / (s * std::sqrt(2 * M_PI));
  };
  for (size_t m = 0; m < 3; ++m) {
    const SpaceBlock& block = head.space().blocks()[m];
    for (size_t i = 0; i < 6; ++i) {
      double ratio = 1;
      for (int64_t j = block.offset; j < block.end(); ++j) {
        const double z = spec.vectors[i * d + j], mean = mu[spec.context[i] * d + j];
        const double from = spec.old_means[i * d + j], s = spec.old_noise[m];
        ratio *= density(z, mean, sigma[m]) / density(z, from, s);
        old += std::log(sigma[m] / s) + (s * s + (from - mean) * (from - mean)) / (2 * sigma[m] * sigma[m]) -
               0.5;
      }
      const double a = spec.advantages[i];
      policy -= std::min(ratio * a, std::clamp(ratio, 0.8, 1.2) * a) / 6;
    }
    for (int64_t j = block.offset; j < block.end(); ++j) {
      entropy += 0.5 * std::log(2 * M_PI * M_E * sigma[m] * sigma[m]);
      for (int c = 0; c < 3; ++c) start += mu[c * d + j] * mu[c * d + j] / (2 * sigma[m] * sigma[m]) / 3;
    }
  }
  EXPECT_NEAR(stats.policy_loss, policy, 1e-12);
  EXPECT_NEAR(stats.kl_start, start, 1e-9);
  EXPECT_NEAR(stats.kl_old, old / 6, 1e-12);
  EXPECT_NEAR(stats.entropy, entropy, 1e-12);
  EXPECT_NEAR(stats.loss, policy + 0.3 * start, 1e-9);
}

TEST(EditHead, OneAdamStepMovesEveryEntryByAboutTheRateInUnits) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.5);
  EditHead head(model, TinyHead());
  head.SetNoise({0.2, 0.02, 0.002});  // no step yet: also the units
  HeadStepSpec spec;
  spec.features = Floats(1, head.features(), 1.7);
  double mean = 0;
  for (const float f : spec.features) mean += std::abs(f) / static_cast<double>(head.features());
  spec.gradient.assign(head.space().size(), 1.0f);
  spec.learning_rate = 0.1;
  spec.max_grad_norm = 0;
  head.Step(spec, JobControl());
  const std::vector<double> moved = head.Means(spec.features);
  for (size_t m = 0; m < 3; ++m) {
    const SpaceBlock& block = head.space().blocks()[m];
    for (int64_t j = block.offset; j < block.end(); ++j) {
      EXPECT_NEAR(moved[j] / head.noise()[m], -0.1 * (1 + mean), 1e-4);  // the bias moves once more
    }
  }
  // From the first step on the unit stays: noise that is calibrated anew does not move the mean.
  head.SetNoise({1, 1, 1});
  EXPECT_EQ(head.Means(spec.features), moved);
}

TEST(EditHead, FeaturesAreScaledMeansOfHiddenStates) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  const EditHead head(model, TinyHead());
  auto delta = std::make_shared<Delta>();
  delta->parts = {TinyPart(*model, 2, DeltaKind::kLowRank, 5)};
  const DeltaStack stack{{delta, 1.0}};
  const Ragged rows = TinyRows({4, 9, 1}, 3);
  const std::vector<double> found = head.Features(stack, rows, JobControl());
  for (int64_t row = 0; row < 3; ++row) {
    const at::Tensor mean = HiddenStates(*model, GatherRows(rows, {row}), stack).mean(0);
    const at::Tensor expected = mean / mean.square().mean().sqrt();
    for (int64_t i = 0; i < 12; ++i) EXPECT_NEAR(found[row * 12 + i], expected[i].item<double>(), 1e-12);
  }
}

TEST(EditHead, SamplesAreKeyedAntitheticAndOfTheStatedSpread) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  EditHead head(model, TinyHead());
  head.SetNoise({0.3, 0.2, 0.1});
  const int64_t d = head.space().size(), n = 4000;
  const std::vector<float> means = Floats(1, 2 * d, 1);
  const std::vector<double> both = head.Sample(means, {11, 12}, n, true);
  const std::vector<double> second =
      head.Sample({means.begin() + d, means.end()}, {12}, n, true);  // not a matter of the others
  EXPECT_TRUE(std::equal(second.begin(), second.end(), both.begin() + n * d));
  for (int64_t s = 0; s < n; s += 2) {
    for (int64_t j = 0; j < d; ++j) {
      ASSERT_NEAR(both[s * d + j] + both[(s + 1) * d + j], 2 * means[j], 1e-12);
    }
  }
  const std::vector<double> plain = head.Sample(means, {11, 12}, n, false);
  for (size_t m = 0; m < 3; ++m) {
    const SpaceBlock& block = head.space().blocks()[m];
    for (int64_t j = block.offset; j < block.end(); ++j) {
      double sum = 0, squares = 0;
      for (int64_t s = 0; s < n; ++s) {
        sum += plain[s * d + j] - means[j];
        squares += std::pow(plain[s * d + j] - means[j], 2);
      }
      EXPECT_NEAR(sum / n, 0, 4 * head.noise()[m] / std::sqrt(n));
      EXPECT_NEAR(std::sqrt(squares / n) / head.noise()[m], 1, 4 / std::sqrt(2.0 * n));
    }
  }
}

TEST(EditHead, FilesRestoreEveryBitAndForeignOnesAreRefused) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.5);
  const std::string path =
      (std::filesystem::temp_directory_path() / "selfedit-edit-head.safetensors").string();
  EditHead head(model, TinyHead());
  head.SetNoise({0.06, 0.04, 0.05});
  HeadStepSpec spec = Objective(head);
  spec.dry_run = false;
  head.Step(spec, JobControl());
  head.SetNoise({0.07, 0.01, 0.02});
  head.Save(path);
  EditHeadSpec other = TinyHead();
  other.key = 6;
  EditHead again(model, other);
  again.Load(path);
  head.Step(spec, JobControl());
  again.Step(spec, JobControl());
  EXPECT_EQ(head.Parameters(), again.Parameters());
  EXPECT_EQ(head.noise(), again.noise());
  EXPECT_EQ(head.Means(spec.features), again.Means(spec.features));
  EXPECT_EQ(again.steps(), 2);

  const std::vector<double> before = again.Parameters();
  other.choices[1].size = 2;
  EditHead smaller(model, other);
  ExpectCode("FILE_FORMAT", "lowRank 3", [&] { smaller.Load(path); });
  ModelConfig config = TinyConfig();
  config.intermediate_size = 24;
  EditHead foreign(Model::Random(config, Dtype::kFloat32, 7, 0.5), TinyHead());
  ExpectCode("FILE_FORMAT", "[20, 12]", [&] { foreign.Load(path); });
  EditHead wide(Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5), TinyHead());
  ExpectCode("TENSOR_SHAPE", "values", [&] { wide.Load(path); });
  WriteSafetensors(path, {}, {{"format", "selfedit-policy-1"}});
  ExpectCode("FILE_FORMAT", "not an edit head", [&] { again.Load(path); });
  EXPECT_EQ(again.Parameters(), before);
  std::filesystem::remove(path);
}

TEST(EditHead, BadInputChangesNothing) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  EditHead head(model, TinyHead(false));
  HeadStepSpec good = Objective(head);
  good.dry_run = false;
  const std::vector<double> before = head.Parameters();
  const auto refuses = [&](const char* code, const char* mentions,
                           const std::function<void(HeadStepSpec*)>& spoil) {
    HeadStepSpec bad = good;
    spoil(&bad);
    ExpectCode(code, mentions, [&] { head.Step(bad, JobControl()); });
    EXPECT_EQ(head.Parameters(), before);
    EXPECT_EQ(head.steps(), 0);
  };
  refuses("INPUT_INVALID", "vectors has", [](HeadStepSpec* s) { s->vectors.pop_back(); });
  refuses("INPUT_INVALID", "vectors, entry 2", [](HeadStepSpec* s) { s->vectors[2] = NAN; });
  refuses("INPUT_INVALID", "advantages, entry 1", [](HeadStepSpec* s) { s->advantages[1] = INFINITY; });
  refuses("INPUT_INVALID", "features has", [](HeadStepSpec* s) { s->features.pop_back(); });
  refuses("INPUT_INVALID", "no context", [](HeadStepSpec* s) { s->features.clear(); });
  refuses("INPUT_INVALID", "context 3", [](HeadStepSpec* s) { s->context[0] = 3; });
  refuses("INPUT_INVALID", "basis is fixed", [](HeadStepSpec* s) { s->basis_gradient = {1}; });
  refuses("INPUT_INVALID", "oldNoise", [](HeadStepSpec* s) { s->old_noise[0] = 0; });
  refuses("OPTION_INVALID", "klCoefficient", [](HeadStepSpec* s) { s->kl_coefficient = -1; });
  refuses("OPTION_INVALID", "learningRate", [](HeadStepSpec* s) { s->learning_rate = NAN; });
  refuses("LOSS_NOT_FINITE", "was not changed", [](HeadStepSpec* s) {
    for (size_t i = 0; i < s->advantages.size(); ++i) s->advantages[i] = -3e38f;
    for (float& z : s->vectors) z += 2;
  });
  ExpectCode("OPTION_INVALID", "noise", [&] { head.SetNoise({1, 0, 1}); });
  ExpectCode("INPUT_INVALID", "parameters", [&] { head.SetParameters({1}); });
  ExpectCode("OPTION_INVALID", "samples", [&] { head.Sample(std::vector<float>(7), {1}, 0, true); });
}

}  // namespace
}  // namespace selfedit
