// Changes of every kind on every sort of weight, under the rows of a call and under training, on the device
// engine against the CPU's, on the kernels' twins.
#include <c10/core/InferenceMode.h>

#include "core/generate.h"
#include "core/gradient.h"
#include "core/score.h"
#include "device_testing.h"

namespace selfedit {
namespace {
using namespace testing;

ModelConfig Config(bool tied, bool biases) {
  ModelConfig config = DeviceConfig(biases);
  config.tied = tied;
  return config;
}

// One fork a kind, one with all kinds at once, one with two levels, one with nothing.
std::vector<DeltaStack> Forks(const Model& model, bool shared) {
  const std::vector<int32_t> ids = DeviceWeightsOfEverySort(model);
  std::vector<DeltaStack> forks;
  for (const DeltaKind kind : kDeviceKinds) forks.push_back({{DeviceDelta(model, ids, {kind}, 100), 0.8}});
  const std::vector<DeltaKind> all(std::begin(kDeviceKinds), std::end(kDeviceKinds));
  forks.push_back({{DeviceDelta(model, ids, all, 200), 0.4}});
  forks.push_back({forks[2][0], forks[0][0]});
  forks.push_back({});
  if (shared) {
    const DeltaPtr parent = DeviceDelta(model, ids, {DeltaKind::kLowRank, DeltaKind::kDense}, 300);
    for (DeltaStack& fork : forks) fork.insert(fork.begin(), {parent, 0.5});
  }
  return forks;
}

ScoreSpec Scores(const std::shared_ptr<Model>& model, bool shared) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = DeviceRows({9, 1, 30, 2, 17, 5, 21, 12, 40}, 21);
  spec.forks = Forks(*model, shared);
  spec.row_fork = {0, 4, 1, 3, 2, 5, 6, 4, 2};
  spec.temperature = 0.8;
  return spec;
}

TEST(DeviceKinds, ScoreAgreesForEveryKindOnEveryWeight) {
  const c10::InferenceMode inference;
  for (const bool tied : {false, true}) {
    const auto model = Model::Random(Config(tied, !tied), Dtype::kFloat32, 31, 0.2);
    const cuda::DeviceModel on_device(*model, at::kCPU);
    for (const bool shared : {false, true}) {
      ScoreSpec spec = Scores(model, shared);
      const std::vector<double> expected = Score(spec, {});
      for (const int64_t most : {0, 1}) {
        spec.max_batch_tokens = most;
        ExpectClose(cuda::Score(spec, on_device, {}), expected, 1e-5);
      }
    }
  }
}

TEST(DeviceKinds, ScoreInBfloat16StaysClose) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(true, true), Dtype::kBFloat16, 32, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec spec = Scores(model, true);
  // Every activation and every change is rounded to 8 bits on the device.
  ExpectClose(cuda::Score(spec, on_device, {}), Score(spec, {}), 0.1);
}

TEST(DeviceKinds, DivergenceAgrees) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(false, true), Dtype::kFloat32, 35, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec scores = Scores(model, true);
  DivergenceSpec spec;
  spec.model = model;
  spec.rows = scores.rows;
  spec.forks = scores.forks;
  spec.row_fork = scores.row_fork;
  spec.row_reference = {1, 0, 0, 2, 2, 3, 3, 6, 1};
  const std::vector<double> expected = Divergence(spec, {});
  ExpectClose(cuda::Divergence(spec, on_device, {}), expected, 1e-5);
}

GenerateSpec Sampling(const std::shared_ptr<Model>& model) {
  GenerateSpec spec;
  spec.model = model;
  spec.prompts = DeviceRows({9, 1, 25, 4, 13, 6, 8}, 41);
  spec.forks = Forks(*model, true);
  spec.prompt_fork = {2, 0, 1, 4, 3, 5, 6};
  spec.application = Application::kOverlay;
  for (int r = 0; r < 21; ++r) {
    spec.row_prompt.push_back(r % 7);
    spec.max_tokens.push_back(3 + r);
    spec.top_k.push_back(0);
    spec.top_p.push_back(1.0f);
    spec.temperature.push_back(0.9f);
    spec.keys.push_back(1000 + r);
  }
  return spec;
}

TEST(DeviceKinds, GenerateDrawsTheTokensOfTheCpu) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(false, true), Dtype::kFloat32, 36, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = Sampling(model);
  const GenerateResult expected = Generate(spec, {});
  for (const int64_t most : {0, 3}) {
    spec.max_rows = most;
    const GenerateResult found = cuda::Generate(spec, on_device, {});
    for (size_t r = 0; r < expected.tokens.size(); ++r) EXPECT_EQ(found.tokens[r], expected.tokens[r]) << r;
  }
}

// Copied rows: of some forks, beside others under the overlay; embedding, head and vectors stay overlays.
TEST(DeviceKinds, ScoreReadsCopiedRows) {
  const c10::InferenceMode inference;
  for (const bool tied : {false, true}) {
    const auto model = Model::Random(Config(tied, true), Dtype::kFloat32, 54, 0.2);
    const cuda::DeviceModel on_device(*model, at::kCPU);
    for (const bool shared : {false, true}) {
      ScoreSpec spec = Scores(model, shared);
      const std::vector<double> overlay = cuda::Score(spec, on_device, {});
      spec.materialised.resize(spec.forks.size());
      for (const size_t f : {1, 4, 5}) spec.materialised[f] = Materialised::Make(*model, spec.forks[f], {});
      ExpectClose(cuda::Score(spec, on_device, {}), overlay, 1e-5);
      ExpectClose(cuda::Score(spec, on_device, {}), Score(spec, {}), 1e-5);
      // They are really read: another fork's copies give other numbers.
      std::swap(spec.materialised[1], spec.materialised[4]);
      EXPECT_GT(std::abs(cuda::Score(spec, on_device, {})[12] - overlay[12]), 1e-3);
    }
  }
}

TEST(DeviceKinds, GenerateDecodesWithCopiedRows) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(false, true), Dtype::kFloat32, 36, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = Sampling(model);
  const GenerateResult expected = Generate(spec, {});
  spec.materialised.resize(spec.forks.size());
  spec.materialised[4] = Materialised::Make(*model, spec.forks[4], {});
  for (const Application application : {Application::kAuto, Application::kMaterialised}) {
    spec.application = application;
    const GenerateResult found = cuda::Generate(spec, on_device, {});
    for (size_t r = 0; r < expected.tokens.size(); ++r) EXPECT_EQ(found.tokens[r], expected.tokens[r]) << r;
  }
}

// Edits that start from deltas of every kind, that choose a sparse support, and low-rank ones of every
// weight.
AdaptSpec Edits(const std::shared_ptr<Model>& model, bool parents) {
  const std::vector<int32_t> ids = DeviceWeightsOfEverySort(*model);
  AdaptSpec spec;
  spec.model = model;
  spec.documents = DeviceRows({9, 17, 5, 30, 12, 7, 21, 3, 16, 11, 8, 14}, 5);
  for (int64_t e = 0; e < 9; ++e) {
    SlotSpec slot;
    slot.first_document = e;
    slot.last_document = e + 2;
    slot.rank = 3;
    slot.alpha = 6;
    slot.learning_rate = 2e-3;
    slot.epochs = 2;
    slot.key = e;
    slot.matrices = ids;
    spec.slots.push_back(slot);
  }
  for (size_t k = 0; k < 4; ++k)
    spec.slots[1 + k].init = DeviceDelta(*model, ids, {kDeviceKinds[k]}, 400 + k);
  const std::vector<DeltaKind> all(std::begin(kDeviceKinds), std::end(kDeviceKinds));
  spec.slots[5].init = DeviceDelta(*model, {8, 13}, all, 500);
  for (const size_t s : {6, 7}) {
    spec.slots[s].kind = DeltaKind::kSparse;
    spec.slots[s].density = 0.05;
    spec.slots[s].selection = s == 6 ? Selection::kGradient : Selection::kFisher;
  }
  spec.slots[1].rank = spec.slots[1].init->parts[0].rank();
  // Only what comes after the layers; and wider than one product.
  spec.slots[4].init = DeviceDelta(*model, {static_cast<int32_t>(model->ids().final_norm)},
                                   {DeltaKind::kDense, DeltaKind::kSpectral}, 600);
  spec.slots[8].rank = 150;
  spec.slots[8].matrices = {7, 16};
  // The first one's ranks differ between matrices and vectors, which have but one row.
  spec.slots[1].init = DeviceDelta(*model, {2, 9}, {DeltaKind::kLowRank}, 700);
  spec.slots[1].matrices = {2, 9};
  spec.max_step_tokens = 64;
  if (parents) {
    const std::vector<DeltaStack> forks = Forks(*model, true);
    for (size_t s = 0; s < spec.slots.size(); ++s) spec.slots[s].stack = forks[s % forks.size()];
  }
  return spec;
}

// The same values in float64.
DeltaPtr Widened(const Delta& delta) {
  auto wide = std::make_shared<Delta>(delta);
  for (DeltaPart& part : wide->parts) {
    for (at::Tensor* tensor : {&part.a, &part.b, &part.sigma, &part.values}) {
      if (tensor->defined()) *tensor = tensor->to(at::kDouble);
    }
  }
  return wide;
}

TEST(DeviceKinds, AdaptTrainsEveryKindOnEveryWeight) {
  const c10::InferenceMode inference;
  for (const bool parents : {false, true}) {
    const auto model = Model::Random(Config(parents, !parents), Dtype::kFloat32, 50, 0.2);
    const cuda::DeviceModel on_device(*model, at::kCPU);
    AdaptSpec spec = Edits(model, parents);
    if (parents) spec.max_active_slots = 4;  // slots change from one kind to another
    const AdaptResult expected = Adapt(spec, {}), found = cuda::Adapt(spec, on_device, {}, {});
    AdaptSpec twin = spec;
    twin.model = Model::Random(Config(parents, !parents), Dtype::kFloat64, 50, 0.2);
    for (SlotSpec& slot : twin.slots) {
      if (slot.init) slot.init = Widened(*slot.init);
      for (AppliedDelta& applied : slot.stack) applied.delta = Widened(*applied.delta);
    }
    const AdaptResult exact = Adapt(twin, {});
    for (size_t s = 0; s < spec.slots.size(); ++s) {
      SCOPED_TRACE("edit " + std::to_string(s));
      // Adam brings roundings of both to some 1e-5, so that each is held against what is exact, not against
      // the other.
      EXPECT_LT(DeviceDifference(*model, *found.deltas[s], *exact.deltas[s]), 1e-4);
      EXPECT_LT(DeviceDifference(*model, *expected.deltas[s], *exact.deltas[s]), 1e-4);
      ASSERT_EQ(found.loss[s].size(), expected.loss[s].size());
      for (size_t i = 0; i < found.loss[s].size(); ++i)
        EXPECT_NEAR(found.loss[s][i], expected.loss[s][i], 1e-5 * expected.loss[s][i]);
    }
  }
}

TEST(DeviceKinds, BitsDoNotDependOnWhoElseIsTrained) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(true, true), Dtype::kBFloat16, 51, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  AdaptSpec spec = Edits(model, true);
  const AdaptResult together = cuda::Adapt(spec, on_device, {true}, {});
  for (const size_t s : {0, 2, 4, 5, 6}) {
    AdaptSpec alone = spec;
    alone.slots = {spec.slots[s]};
    const AdaptResult one = cuda::Adapt(alone, on_device, {true}, {});
    EXPECT_TRUE(DeviceSameBits(*one.deltas[0], *together.deltas[s])) << "edit " << s;
    EXPECT_EQ(one.loss[0], together.loss[s]);
  }
}

TEST(DeviceKinds, WeightGradientsAgreeWithTheCpu) {
  const c10::InferenceMode inference;
  for (const bool tied : {false, true}) {
    const auto model = Model::Random(Config(tied, true), Dtype::kFloat32, 52, 0.2);
    const cuda::DeviceModel on_device(*model, at::kCPU);
    const std::vector<int32_t> ids = DeviceWeightsOfEverySort(*model);
    const Ragged documents = DeviceRows({9, 30, 5, 12}, 61);
    std::vector<uint8_t> mask(documents.tokens.size(), 1);
    for (size_t t = 0; t < mask.size(); t += 3) mask[t] = 0;
    const DeltaStack stack = Forks(*model, true)[4];
    for (const Selection selection : {Selection::kGradient, Selection::kFisher}) {
      const auto expected = WeightGradients(*model, stack, documents, mask, ids, selection, {});
      const auto found = cuda::WeightGradients(on_device, stack, documents, mask, ids, selection, {});
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < ids.size(); ++i) {
        const double size = expected[i].norm().item<double>();
        EXPECT_GT(size, 0);
        EXPECT_LT(at::sub(found[i], expected[i]).norm().item<double>(), 2e-5 * size) << ids[i];
      }
    }
  }
}

TEST(DeviceKinds, GradientsOfDeltasAgreeWithTheCpu) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(Config(true, true), Dtype::kFloat32, 53, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec scores = Scores(model, true);
  GradientSpec spec;
  spec.model = model;
  spec.rows = scores.rows;
  spec.forks = scores.forks;
  spec.forks.pop_back();
  // Rows of one prediction give attention no gradient: every fork has longer ones.
  spec.row_fork = {0, 4, 1, 1, 2, 5, 3, 4, 2};
  for (size_t f = 0; f < spec.forks.size(); ++f) spec.level.push_back(f == 3 ? 0 : 1);
  const std::vector<double> u = Uniform(71, static_cast<int64_t>(spec.rows.tokens.size()));
  for (const double x : u) spec.cotangents.push_back(2 * x - 1);
  spec.temperature = 1.3;
  const GradientResult expected = Gradient(spec, {});
  for (const int64_t most : {0, 40}) {
    spec.max_batch_tokens = most;
    const GradientResult found = cuda::Gradient(spec, on_device, {});
    ExpectClose(found.logprobs, expected.logprobs, 1e-5);
    ASSERT_EQ(found.gradients.size(), expected.gradients.size());
    for (size_t f = 0; f < expected.gradients.size(); ++f) {
      const auto &mine = found.gradients[f]->parts, &theirs = expected.gradients[f]->parts;
      ASSERT_EQ(mine.size(), theirs.size());
      for (size_t p = 0; p < mine.size(); ++p) {
        EXPECT_EQ(mine[p].scale, theirs[p].scale);
        const std::vector<at::Tensor> left = mine[p].trainable(), right = theirs[p].trainable();
        for (size_t t = 0; t < left.size(); ++t) {
          const double size = right[t].norm().item<double>();
          // Both are sums in float32: a small gradient whose terms cancel is up to 5e-5 apart.
          EXPECT_LT(at::sub(left[t], right[t]).norm().item<double>(), 1e-4 * size + 1e-9)
              << "fork " << f << ", part " << p << ", " << DeltaKindName(theirs[p].kind) << " of "
              << model->tensors()[theirs[p].matrix].name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace selfedit
