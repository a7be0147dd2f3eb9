// Graphs like those of Mistral, Qwen3 and Gemma 3 on the device engine against the CPU's, on the kernels'
// twins: windows, norms of q and k, norms after the blocks, GELU, scaled embedding and scores, a local
// rotation.
#include <c10/core/InferenceMode.h>

#include "core/generate.h"
#include "core/gradient.h"
#include "core/score.h"
#include "cuda/runtime/pass.h"
#include "device_testing.h"

namespace selfedit {
namespace {
using namespace testing;

const std::vector<DeltaKind> kAllKinds(std::begin(kDeviceKinds), std::end(kDeviceKinds));

// A fork with all kinds on weights of every sort, the same under another delta, and none.
std::vector<DeltaStack> Forks(const Model& model) {
  const std::vector<int32_t> ids = DeviceWeightsOfEverySort(model);
  const AppliedDelta all{DeviceDelta(model, ids, kAllKinds, 200), 0.4};
  const AppliedDelta low{DeviceDelta(model, ids, {DeltaKind::kLowRank}, 300), 0.8};
  return {{all}, {low, all}, {}};
}

// body(model, the same on the device) for every architecture, in float32.
template <typename Body>
void ForArchitectures(Body body) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : DeviceArchitectures()) {
    SCOPED_TRACE(config.architecture);
    const auto model = Model::Random(config, Dtype::kFloat32, 31, 0.2);
    body(model, cuda::DeviceModel(*model, at::kCPU));
  }
}

ScoreSpec Scores(const std::shared_ptr<Model>& model) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = DeviceRows({9, 1, 30, 2, 17, 40}, 21);
  spec.forks = Forks(*model);
  spec.row_fork = {0, 1, 2, 1, 0, 1};
  return spec;
}

TEST(DeviceArchitecture, ScoreAgrees) {
  ForArchitectures([](const auto& model, const cuda::DeviceModel& on_device) {
    ScoreSpec spec = Scores(model);
    const std::vector<double> expected = Score(spec, {});
    for (const int64_t most : {0, 1}) {
      spec.max_batch_tokens = most;
      ExpectClose(cuda::Score(spec, on_device, {}), expected, 1e-5);
    }
  });
}

// Prompts with and without a shared beginning that is longer than a window, rows that go beyond one.
TEST(DeviceArchitecture, GenerateDrawsTheTokensOfTheCpu) {
  ForArchitectures([](const auto& model, const cuda::DeviceModel& on_device) {
    GenerateSpec spec;
    spec.model = model;
    spec.forks = Forks(*model);
    const Ragged begin = DeviceRows({20}, 44), ends = DeviceRows({3, 1, 9, 4}, 45);
    for (int64_t p = 0; p < ends.rows(); ++p) {
      std::vector<int32_t> tokens = begin.tokens;
      tokens.insert(tokens.end(), ends.tokens.begin() + ends.offsets[p],
                    ends.tokens.begin() + ends.offsets[p + 1]);
      spec.prompts.Append(tokens.data(), static_cast<int64_t>(tokens.size()));
    }
    spec.shared_prefix = {20, 20, 0, 3};
    spec.prompt_fork = {1, 1, 0, 2};
    spec.application = Application::kOverlay;
    for (int r = 0; r < 12; ++r) {
      spec.row_prompt.push_back(r % 4);
      spec.max_tokens.push_back(4 + r);
      spec.top_k.push_back(0);
      spec.top_p.push_back(1.0f);
      spec.temperature.push_back(0.9f);
      spec.keys.push_back(1000 + r);
    }
    const GenerateResult expected = Generate(spec, {});
    for (const int64_t most : {0, 3}) {
      spec.max_rows = most;
      const GenerateResult found = cuda::Generate(spec, on_device, {});
      for (size_t r = 0; r < expected.tokens.size(); ++r) EXPECT_EQ(found.tokens[r], expected.tokens[r]) << r;
    }
  });
}

TEST(DeviceArchitecture, AdaptTrainsWeightsOfEverySort) {
  ForArchitectures([](const auto& model, const cuda::DeviceModel& on_device) {
    const std::vector<int32_t> ids = DeviceWeightsOfEverySort(*model);
    AdaptSpec spec;
    spec.model = model;
    spec.documents = DeviceRows({9, 17, 5, 30, 12, 21}, 5);
    for (int64_t e = 0; e < 4; ++e) {
      SlotSpec slot;
      slot.first_document = e;
      slot.last_document = e + 2;
      slot.rank = 3;
      slot.alpha = 6;
      slot.learning_rate = 2e-3;
      slot.epochs = 2;
      slot.key = e;
      slot.matrices = ids;
      slot.stack = Forks(*model)[e % 3];
      spec.slots.push_back(slot);
    }
    spec.slots[1].init = DeviceDelta(*model, ids, {DeltaKind::kDense}, 400);
    spec.slots[2].init = DeviceDelta(*model, ids, {DeltaKind::kSparse}, 401);
    const AdaptResult expected = Adapt(spec, {}), found = cuda::Adapt(spec, on_device, {}, {});
    for (size_t s = 0; s < spec.slots.size(); ++s) {
      SCOPED_TRACE("edit " + std::to_string(s));
      EXPECT_LT(DeviceDifference(*model, *found.deltas[s], *expected.deltas[s]), 1e-4);
      ASSERT_EQ(found.loss[s].size(), expected.loss[s].size());
      for (size_t i = 0; i < found.loss[s].size(); ++i)
        EXPECT_NEAR(found.loss[s][i], expected.loss[s][i], 1e-5 * expected.loss[s][i]);
    }
  });
}

TEST(DeviceArchitecture, WeightGradientsAgree) {
  ForArchitectures([](const auto& model, const cuda::DeviceModel& on_device) {
    const std::vector<int32_t> ids = DeviceWeightsOfEverySort(*model);
    const Ragged documents = DeviceRows({9, 30, 5, 12}, 61);
    const std::vector<uint8_t> mask(documents.tokens.size(), 1);
    const DeltaStack stack = Forks(*model)[1];
    const auto expected = WeightGradients(*model, stack, documents, mask, ids, Selection::kGradient, {});
    const auto found =
        cuda::WeightGradients(on_device, stack, documents, mask, ids, Selection::kGradient, {});
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      const double size = expected[i].norm().template item<double>();
      EXPECT_GT(size, 0);
      EXPECT_LT(at::sub(found[i], expected[i]).norm().template item<double>(), 5e-5 * size)
          << model->tensors()[ids[i]].name;
    }
  });
}

// Tapes of the norms are part of the plan: q and k once more, two inputs of norms, and 1 / rms of all.
TEST(DeviceArchitecture, ThePlanCountsTheTapes) {
  const c10::InferenceMode inference;
  ModelConfig config = DeviceConfig();
  const auto bytes = [&] {
    const auto model = Model::Random(config, Dtype::kBFloat16, 31, 0.2);
    return cuda::Pass::Bytes(cuda::DeviceModel(*model, at::kCPU), 1, 3);
  };
  const int64_t plain = bytes();
  config.qk_norm = true;
  EXPECT_EQ(bytes() - plain, 2 * 5 * (64 + 32) + 4 * 4 * (4 + 2));
  config.qk_norm = false;
  config.post_norms = true;
  EXPECT_EQ(bytes() - plain, 2 * (5 * 2 * 32 + 32) + 4 * 4 * 2);
}

}  // namespace
}  // namespace selfedit
