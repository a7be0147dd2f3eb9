// Memory of the device engine, on the host that plays the device: plans before work starts, and an allocation
// that fails all the same: half as much is tried once, with the same results.
#include <c10/core/InferenceMode.h>

#include "core/generate.h"
#include "core/memory.h"
#include "core/score.h"
#include "core/workspace.h"
#include "cuda/twins/backend_twin.h"
#include "device_testing.h"

namespace selfedit {
namespace {
using namespace testing;

struct FreeBytes {
  explicit FreeBytes(int64_t bytes) { cuda::twin_free_bytes = bytes; }
  ~FreeBytes() { cuda::twin_free_bytes = before; }
  int64_t before = cuda::twin_free_bytes;
};

// Runs `work` under ever smaller limits. Where it succeeds, `same` looks at what it gave; returns how often
// it did so after a warning. In the end nothing fits.
template <typename Work, typename Same>
int Squeeze(const Work& work, const Same& same) {
  int halved = 0;
  bool refused = false;
  for (int64_t room = int64_t{1} << 24; room > 1000 && !refused; room = room * 7 / 8) {
    int warnings = 0;
    JobControl control;
    control.warn = [&](const std::string& text) {
      ++warnings;
      EXPECT_NE(text.find("not enough memory"), std::string::npos) << text;
    };
    workspace::Trim();
    workspace::SetLimit(workspace::Read().used_bytes + room);
    try {
      const auto result = work(control);
      workspace::SetLimit(0);
      same(result);
      EXPECT_LE(warnings, 1);
      halved += warnings;
    } catch (...) {
      workspace::SetLimit(0);
      if (!OutOfMemoryNow()) throw;
      refused = true;
    }
  }
  EXPECT_TRUE(refused);
  return halved;
}

ScoreSpec Rows(const std::shared_ptr<Model>& model) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = DeviceRows({9, 1, 30, 2, 17, 5, 1, 12, 40, 33, 21, 8, 27, 35}, 21);
  auto delta = std::make_shared<Delta>();
  for (const int64_t m : {0, 2, 8, 20}) delta->parts.push_back(DeviceLowRank(*model, m, 4, 500 + m));
  spec.forks = {{}, {{delta, 1.0}}};
  for (int64_t r = 0; r < spec.rows.rows(); ++r) spec.row_fork.push_back(static_cast<int32_t>(r % 2));
  return spec;
}

TEST(DeviceMemory, ScoreTakesSmallerBatchesWhenAnAllocationFails) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 31, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  ScoreSpec spec = Rows(model);
  spec.max_batch_tokens = 160;
  const std::vector<double> expected = cuda::Score(spec, on_device, {});
  const int halved = Squeeze([&](const JobControl& control) { return cuda::Score(spec, on_device, control); },
                             [&](const std::vector<double>& found) {
                               for (size_t i = 0; i < expected.size(); ++i) {
                                 if (!std::isnan(expected[i])) EXPECT_EQ(found[i], expected[i]) << i;
                               }
                             });
  EXPECT_GT(halved, 0);
}

TEST(DeviceMemory, DivergenceTakesSmallerBatchesWhenAnAllocationFails) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 31, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec rows = Rows(model);
  DivergenceSpec spec;
  spec.model = model;
  spec.rows = rows.rows;
  spec.forks = rows.forks;
  spec.row_fork = rows.row_fork;
  spec.row_reference.assign(rows.row_fork.size(), 0);
  spec.max_batch_tokens = 160;
  const std::vector<double> expected = cuda::Divergence(spec, on_device, {});
  const int halved =
      Squeeze([&](const JobControl& control) { return cuda::Divergence(spec, on_device, control); },
              [&](const std::vector<double>& found) { EXPECT_EQ(found, expected); });
  EXPECT_GT(halved, 0);
}

GenerateSpec Sampling(const std::shared_ptr<Model>& model) {
  GenerateSpec spec;
  spec.model = model;
  spec.prompts = DeviceRows({9, 1, 25, 4, 13}, 41);
  spec.forks = Rows(model).forks;
  spec.prompt_fork = {1, 0, 1, 0, 1};
  for (int r = 0; r < 40; ++r) {
    spec.row_prompt.push_back(r % 5);
    spec.max_tokens.push_back(20);
    spec.top_k.push_back(0);
    spec.top_p.push_back(1.0f);
    spec.temperature.push_back(0.9f);
    spec.keys.push_back(1000 + r);
  }
  spec.stop_tokens = {3, 7};
  return spec;
}

TEST(DeviceMemory, GenerateDecodesFewerRowsWhenAnAllocationFails) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 36, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const GenerateSpec spec = Sampling(model);
  const GenerateResult expected = cuda::Generate(spec, on_device, {});
  const int halved =
      Squeeze([&](const JobControl& control) { return cuda::Generate(spec, on_device, control); },
              [&](const GenerateResult& found) {
                EXPECT_EQ(found.tokens, expected.tokens);
                EXPECT_EQ(found.finish, expected.finish);
              });
  EXPECT_GT(halved, 0);
}

AdaptSpec Edits(const std::shared_ptr<Model>& model) {
  AdaptSpec spec;
  spec.model = model;
  spec.documents = DeviceRows({9, 17, 5, 30, 12, 7, 21, 16}, 5);
  for (int e = 0; e < 8; ++e) {
    SlotSpec slot;
    slot.first_document = e;
    slot.last_document = e + 1;
    slot.rank = 64;
    slot.epochs = 2;
    slot.key = e;
    slot.matrices = {0, 4, 5, 13, 20};
    spec.slots.push_back(slot);
  }
  spec.max_step_tokens = 32;
  return spec;
}

TEST(DeviceMemory, AdaptTrainsFewerEditsAtOnceWhenAnAllocationFails) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 17, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const AdaptSpec spec = Edits(model);
  const AdaptResult expected = cuda::Adapt(spec, on_device, {true}, {});
  const int halved =
      Squeeze([&](const JobControl& control) { return cuda::Adapt(spec, on_device, {true}, control); },
              [&](const AdaptResult& found) {
                for (size_t s = 0; s < spec.slots.size(); ++s) {
                  EXPECT_TRUE(DeviceSameBits(*found.deltas[s], *expected.deltas[s])) << "edit " << s;
                  EXPECT_EQ(found.loss[s], expected.loss[s]);
                }
              });
  EXPECT_GT(halved, 0);
}

TEST(DeviceMemory, APlanOfGenerateFollowsTheFreeMemory) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 36, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = Sampling(model);
  const MemoryPlan roomy = cuda::PlanGenerate(spec, on_device);
  EXPECT_EQ(roomy.count, 48);  // 40 rows in steps of sixteen places
  EXPECT_GE(roomy.tokens, 52);
  EXPECT_LE(roomy.total(), roomy.budget);
  const GenerateResult expected = cuda::Generate(spec, on_device, {});
  {
    const FreeBytes tight((roomy.fixed + 40 * roomy.token + 9 * roomy.each) / 9 * 10 + 10);
    const MemoryPlan plan = cuda::PlanGenerate(spec, on_device);
    EXPECT_LT(plan.count, 10);
    EXPECT_GE(plan.count, 1);
    EXPECT_LE(plan.total(), plan.budget);
    EXPECT_EQ(cuda::Generate(spec, on_device, {}).tokens, expected.tokens);
  }
  const FreeBytes none(1000);
  try {
    cuda::PlanGenerate(spec, on_device);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "OUT_OF_MEMORY");
  }
}

}  // namespace
}  // namespace selfedit
