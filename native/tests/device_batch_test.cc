// Scoring, divergence, sampling and the policy's gradient of the device engine against the CPU's, on the
// kernels' twins.
#include <c10/core/InferenceMode.h>

#include <limits>
#include <set>

#include "core/generate.h"
#include "core/policy.h"
#include "core/score.h"
#include "cuda/runtime/prompt_reader.h"
#include "device_testing.h"

namespace selfedit {
namespace {
using namespace testing;

DeltaPart DeviceSparse(const Model& model, int64_t matrix, uint64_t key) {
  const MatrixInfo& info = model.matrices()[matrix];
  const std::vector<double> u = Uniform(key, info.out * info.in);
  std::vector<int32_t> offsets{0}, columns;
  for (int64_t i = 0; i < info.out; ++i) {
    for (int64_t j = 0; j < info.in; ++j) {
      if (u[i * info.in + j] < 0.1) columns.push_back(static_cast<int32_t>(j));
    }
    offsets.push_back(static_cast<int32_t>(columns.size()));
  }
  auto ints = [](const std::vector<int32_t>& v) {
    at::Tensor t = at::empty({static_cast<int64_t>(v.size())}, at::kInt);
    std::copy(v.begin(), v.end(), t.mutable_data_ptr<int32_t>());
    return t;
  };
  return DeltaPart::Sparse(matrix, ints(offsets), ints(columns),
                           DeviceNoise({static_cast<int64_t>(columns.size())}, key + 1, 0.3), 0.8);
}

DeltaPart DeviceSpectral(const Model& model, int64_t matrix, int64_t rank, uint64_t key) {
  const MatrixInfo& info = model.matrices()[matrix];
  return DeltaPart::Spectral(matrix, DeviceNoise({info.out, rank}, key, 0.3), DeviceNoise({rank}, key + 1, 1),
                             DeviceNoise({rank, info.in}, key + 2, 0.3), DeviceNoise({rank}, key + 3, 0.5),
                             1.2);
}

// Forks that share a first level or none, of all kinds that a device applies.
std::vector<DeltaStack> Forks(const Model& model, bool shared) {
  auto parent = std::make_shared<Delta>(), low = std::make_shared<Delta>(), mixed = std::make_shared<Delta>(),
       wide = std::make_shared<Delta>();
  for (const int64_t m : {0, 5, 13}) parent->parts.push_back(DeviceLowRank(model, m, 3, 400 + m));
  for (const int64_t m : {0, 2, 8, 20}) low->parts.push_back(DeviceLowRank(model, m, 9, 500 + m));
  mixed->parts = {DeviceLowRank(model, 1, 2, 600), DeviceSparse(model, 1, 610), DeviceSparse(model, 6, 620),
                  DeviceSpectral(model, 9, 4, 630)};
  wide->parts = {DeviceLowRank(model, 11, 150, 700, 0.05)};
  std::vector<DeltaStack> forks{{}, {{low, 1.0}}, {{low, 0.5}, {mixed, 1.0}}, {{mixed, 0.7}, {wide, 1.0}}};
  if (shared) {
    for (DeltaStack& fork : forks) fork.insert(fork.begin(), {parent, 0.9});
  }
  return forks;
}

ScoreSpec Scores(const std::shared_ptr<Model>& model, bool shared) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = DeviceRows({9, 1, 30, 2, 17, 5, 1, 12, 40}, 21);
  spec.forks = Forks(*model, shared);
  spec.row_fork = {0, 2, 1, 3, 2, 1, 0, 3, 2};
  spec.temperature = 0.8;
  return spec;
}

TEST(DeviceScore, AgreesWithTheCpuForForksOfAllKinds) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(true), Dtype::kFloat32, 31, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  for (const bool shared : {false, true}) {
    for (const int64_t most : {0, 40, 1}) {
      ScoreSpec spec = Scores(model, shared);
      const std::vector<double> expected = Score(spec, {});
      spec.max_batch_tokens = most;
      ExpectClose(cuda::Score(spec, on_device, {}), expected, 1e-5);
    }
  }
}

TEST(DeviceScore, Bfloat16StaysClose) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(), Dtype::kBFloat16, 32, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec spec = Scores(model, true);
  // Every activation is rounded to 8 bits on the device, which the CPU keeps in float32.
  ExpectClose(cuda::Score(spec, on_device, {}), Score(spec, {}), 0.05);
}

TEST(DeviceScore, BitsDoNotDependOnBatchMates) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(), Dtype::kBFloat16, 33, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  ScoreSpec spec = Scores(model, true);
  const std::vector<double> together = cuda::Score(spec, on_device, {});
  spec.max_batch_tokens = 1;
  const std::vector<double> alone = cuda::Score(spec, on_device, {});
  for (size_t i = 0; i < together.size(); ++i) {
    if (std::isnan(together[i])) continue;
    EXPECT_EQ(together[i], alone[i]) << i;
  }
}

TEST(DeviceDivergence, AgreesWithTheCpu) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 35, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const ScoreSpec scores = Scores(model, true);
  DivergenceSpec spec;
  spec.model = model;
  spec.rows = scores.rows;
  spec.forks = scores.forks;
  spec.row_fork = scores.row_fork;
  spec.row_reference = {1, 0, 0, 2, 2, 3, 3, 0, 1};
  const std::vector<double> expected = Divergence(spec, {});
  for (const int64_t most : {0, 40}) {
    spec.max_batch_tokens = most;
    ExpectClose(cuda::Divergence(spec, on_device, {}), expected, 1e-5);
  }
}

GenerateSpec Sampling(const std::shared_ptr<Model>& model) {
  GenerateSpec spec;
  spec.model = model;
  spec.prompts = DeviceRows({9, 1, 25, 4, 13}, 41);
  spec.forks = Forks(*model, true);
  spec.prompt_fork = {2, 0, 1, 2, 3};
  const std::vector<double> u = Uniform(43, 200);
  for (int r = 0; r < 40; ++r) {
    spec.row_prompt.push_back(r % 5);
    spec.max_tokens.push_back(1 + static_cast<int32_t>(u[r] * 30));
    spec.top_k.push_back(r % 3 == 0 ? 12 : 0);
    spec.top_p.push_back(r % 4 == 0 ? 0.8f : 1.0f);
    spec.temperature.push_back(r % 7 == 0 ? 0.0f : 0.9f);
    spec.keys.push_back(1000 + r);
  }
  spec.stop_tokens = {3, 7};
  return spec;
}

void ExpectSameRows(const GenerateResult& found, const GenerateResult& expected) {
  ASSERT_EQ(found.tokens.size(), expected.tokens.size());
  for (size_t r = 0; r < expected.tokens.size(); ++r) {
    ASSERT_EQ(found.tokens[r], expected.tokens[r]) << "row " << r;
    EXPECT_EQ(found.finish[r], expected.finish[r]) << "row " << r;
    for (size_t i = 0; i < expected.logprobs[r].size(); ++i) {
      EXPECT_NEAR(found.logprobs[r][i], expected.logprobs[r][i], 1e-4) << "row " << r << ", token " << i;
    }
  }
}

TEST(DeviceGenerate, DrawsTheTokensOfTheCpu) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(true), Dtype::kFloat32, 36, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = Sampling(model);
  const GenerateResult expected = Generate(spec, {});
  std::set<Finish> finishes(expected.finish.begin(), expected.finish.end());
  EXPECT_GE(finishes.size(), 2u);
  // All rows at once, and few places that are refilled.
  for (const int64_t most : {0, 3, 1}) {
    spec.max_rows = most;
    ExpectSameRows(cuda::Generate(spec, on_device, {}), expected);
  }
}

TEST(DeviceGenerate, EndsAtStopStringsAndAtTheContext) {
  const c10::InferenceMode inference;
  ModelConfig config = DeviceConfig();
  config.max_positions = 34;
  const auto model = Model::Random(config, Dtype::kFloat32, 37, 0.2);
  std::vector<uint8_t> bytes;
  std::vector<int32_t> offsets{0};
  for (int t = 0; t < 61; ++t) {
    bytes.push_back(static_cast<uint8_t>('a' + t % 6));
    offsets.push_back(static_cast<int32_t>(bytes.size()));
  }
  model->SetTokenBytes(bytes, offsets);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = Sampling(model);
  spec.stop_strings = {"abc", "ff"};
  for (int32_t& count : spec.max_tokens) count += 10;
  const GenerateResult expected = Generate(spec, {});
  const std::set<Finish> finishes(expected.finish.begin(), expected.finish.end());
  EXPECT_TRUE(finishes.count(Finish::kStopString) && finishes.count(Finish::kContext));
  for (const int64_t most : {0, 2}) {
    spec.max_rows = most;
    ExpectSameRows(cuda::Generate(spec, on_device, {}), expected);
  }
}

// Prompts of three forks; those of one begin alike.
GenerateSpec SharedPrompts(const std::shared_ptr<Model>& model) {
  GenerateSpec spec = Sampling(model);
  const Ragged begins = DeviceRows({20, 13}, 44), ends = DeviceRows({3, 1, 7, 2, 5, 4}, 45);
  spec.prompts = Ragged();
  for (int64_t p = 0; p < 6; ++p) {
    std::vector<int32_t> tokens;
    const int64_t b = p < 4 ? 0 : 1;
    tokens.assign(begins.tokens.begin() + begins.offsets[b], begins.tokens.begin() + begins.offsets[b + 1]);
    tokens.insert(tokens.end(), ends.tokens.begin() + ends.offsets[p],
                  ends.tokens.begin() + ends.offsets[p + 1]);
    spec.prompts.Append(tokens.data(), static_cast<int64_t>(tokens.size()));
  }
  // The third asks for nothing to be shared, the fourth begins alike under another fork.
  spec.shared_prefix = {20, 20, 0, 20, 13, 13};
  spec.prompt_fork = {2, 2, 2, 1, 3, 3};
  for (size_t r = 0; r < spec.row_prompt.size(); ++r) spec.row_prompt[r] = static_cast<int32_t>(r % 6);
  return spec;
}

TEST(DeviceGenerate, SharesPrefixesOfPrompts) {
  const c10::InferenceMode inference;
  ModelConfig config = DeviceConfig(true);
  config.max_positions = 40;  // some rows end at the context
  const auto model = Model::Random(config, Dtype::kFloat32, 39, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  GenerateSpec spec = SharedPrompts(model);
  const GenerateResult expected = Generate(spec, {});
  EXPECT_NE(std::count(expected.finish.begin(), expected.finish.end(), Finish::kContext), 0);
  for (const int64_t most : {0, 3}) {
    spec.max_rows = most;
    ExpectSameRows(cuda::Generate(spec, on_device, {}), expected);
  }
}

TEST(DeviceGenerate, ReadsAPrefixOnce) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(true), Dtype::kFloat32, 39, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const GenerateSpec spec = SharedPrompts(model);
  GenerateSpec apart = spec;
  apart.shared_prefix.clear();
  cuda::FrozenDeltas deltas(on_device);
  cuda::PromptReader reader(spec, on_device, deltas, {64, 3, 40});
  cuda::PromptReader whole(apart, on_device, deltas, {64, 3, 40});
  std::vector<cuda::ReadPrompt> read, expected;
  for (const std::vector<int32_t>& some : std::vector<std::vector<int32_t>>{{0, 3}, {1, 2}, {4, 5}}) {
    for (const cuda::ReadPrompt& prompt : reader.Read(some)) read.push_back(prompt);
    for (const cuda::ReadPrompt& prompt : whole.Read(some)) expected.push_back(prompt);
  }
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_LT(at::sub(read[i].logits, expected[i].logits).abs().max().item<float>(), 1e-4) << i;
    EXPECT_EQ(read[i].begin.length + read[i].rest.length, expected[i].begin.length);
  }
  const auto same = [&](size_t a, size_t b) {
    return read[a].begin.slab.is_same(read[b].begin.slab) && read[a].begin.offset == read[b].begin.offset;
  };
  EXPECT_TRUE(same(0, 2));   // prompts 0 and 1, in two calls
  EXPECT_FALSE(same(0, 1));  // another fork
  EXPECT_EQ(read[3].rest.length, 0);
  EXPECT_TRUE(same(4, 5));
}

TEST(DevicePolicy, GradientAgreesWithTheCpu) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(true), Dtype::kFloat32, 38, 0.2);
  PolicySpec policy_spec;
  policy_spec.matrices = {2, 7, 9, 13, 20};
  policy_spec.rank = 5;
  Policy policy(model, policy_spec);
  std::vector<double> values = policy.Parameters();
  const std::vector<double> noise = Uniform(51, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) values[i] += 0.2 * (noise[i] - 0.5);
  policy.SetParameters(values);
  PolicyStepSpec spec;
  spec.rows = DeviceRows({12, 1, 30, 7, 2}, 52);
  spec.nll = true;
  const std::vector<double> u = Uniform(53, 200);
  for (size_t t = 0; t < spec.rows.tokens.size(); ++t) {
    spec.action_mask.push_back(u[t] < 0.7);
    spec.advantages.push_back(static_cast<float>(2 * u[100 + t] - 1));
  }
  for (int64_t r = 0; r < spec.rows.rows(); ++r) spec.action_mask[spec.rows.offsets[r]] = 0;
  spec.temperature = 0.7;
  spec.entropy_coefficient = 0.1;
  spec.normalizer = 13;
  spec.dry_run = true;
  policy.Step(spec, {});
  const std::vector<double> expected = policy.Gradients();

  TrainableDelta delta(*model, policy_spec.matrices, policy_spec.rank, policy_spec.alpha);
  for (size_t i = 0; i < values.size(); ++i) {
    delta.values().mutable_data_ptr<float>()[i] = static_cast<float>(values[i]);
  }
  const cuda::DeviceModel on_device(*model, at::kCPU);
  const auto training = cuda::Train(on_device, delta, 40);
  // Two batches, whose gradients add up.
  for (const auto& [first, last] : std::vector<std::pair<int64_t, int64_t>>{{0, 2}, {2, 5}}) {
    std::vector<int64_t> indices;
    for (int64_t r = first; r < last; ++r) indices.push_back(r);
    const Ragged batch = GatherRows(spec.rows, indices);
    const int64_t begin = spec.rows.offsets[first];
    const HeadRows rows = NextTokenRows(batch, [&](int64_t t) { return spec.action_mask[begin + t] != 0; });
    at::Tensor hidden;
    training->Backward(
        batch, rows, spec.temperature, true,
        [&](int64_t from, int64_t n, const double*, const double* entropy, double* g, double* e) {
          for (int64_t i = 0; i < n; ++i) {
            g[i] = -spec.advantages[begin + rows.row[from + i] + 1] / spec.normalizer;
            e[i] = -spec.entropy_coefficient / spec.normalizer;
            EXPECT_GT(entropy[i], 0);
          }
        },
        &hidden);
    const at::Tensor same = cuda::Hidden(on_device, batch, {{delta.Share(), 1.0}});
    EXPECT_LT(at::sub(hidden, same).abs().max().item<float>(), 1e-4);
  }
  training->AddGradient(&delta);
  double norm = 0, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double found = delta.gradient().const_data_ptr<float>()[i];
    difference += (found - expected[i]) * (found - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_GT(norm, 1e-6);
  EXPECT_LT(std::sqrt(difference / norm), 1e-5);
}

}  // namespace
}  // namespace selfedit
