// Copied rows in the place of the overlay: only what changes is copied, the results agree, the bytes are
// exact.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/generate.h"
#include "core/materialised.h"
#include "core/score.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

// Matrices of more rows than one block of kCopiedRows.
std::shared_ptr<Model> TallModel(Dtype dtype) {
  ModelConfig config = TinyConfig();
  config.intermediate_size = 200;
  return Model::Random(config, dtype, 7, 0.4);
}

std::vector<double> ScoreWith(const std::shared_ptr<Model>& model, const Ragged& rows,
                              const std::vector<DeltaStack>& forks,
                              const std::vector<std::shared_ptr<const Materialised>>& materialised) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = rows;
  spec.forks = forks;
  spec.materialised = materialised;
  for (int64_t r = 0; r < rows.rows(); ++r) spec.row_fork.push_back(static_cast<int32_t>(r % forks.size()));
  return Score(spec, JobControl());
}

TEST(Materialised, CopiesOnlyTouchedBlocksAndComputesTheSame) {
  const c10::InferenceMode inference;
  const auto model = TallModel(Dtype::kFloat64);
  const int64_t up = MatrixId(1, Module::kUp), gate = MatrixId(0, Module::kGate),
                down = MatrixId(2, Module::kDown);
  // Rows 70 to 80 and 190 of an [200, 12] weight; two columns a row.
  at::Tensor offsets = at::zeros({201}, at::kInt);
  std::vector<int32_t> columns;
  for (int64_t i = 0; i < 200; ++i) {
    if ((i >= 70 && i <= 80) || i == 190) {
      columns.push_back(2);
      columns.push_back(9);
    }
    offsets.mutable_data_ptr<int32_t>()[i + 1] = static_cast<int32_t>(columns.size());
  }
  at::Tensor index = at::empty({static_cast<int64_t>(columns.size())}, at::kInt);
  std::copy(columns.begin(), columns.end(), index.mutable_data_ptr<int32_t>());
  at::Tensor dense = at::zeros({200, 12}, at::kDouble);
  dense.narrow(0, 130, 3).copy_(Filled({3, 12}, 4));
  auto first = std::make_shared<Delta>();
  first->parts = {DeltaPart::Dense(gate, dense, 1.0),
                  DeltaPart::Sparse(up, offsets, index, Filled({index.numel()}, 5), 2.0),
                  TinyPart(*model, model->ids().embedding, DeltaKind::kSparse, 8),
                  TinyPart(*model, model->ids().mlp_norm[1], DeltaKind::kDense, 9)};
  first->Check(*model);
  auto second = std::make_shared<Delta>();
  second->parts = {TinyPart(*model, MatrixId(0, Module::kQ), DeltaKind::kSpectral, 3),
                   TinyPart(*model, down, DeltaKind::kLowRank, 2)};
  second->Check(*model);
  const DeltaStack stack{{first, 1.0}, {second, 0.5}, {first, -0.25}};
  const auto copied = Materialised::Make(*model, stack, JobControl());

  using Range = std::vector<std::pair<int64_t, int64_t>>;
  auto ranges = [&](int64_t id) {
    Range list;
    for (const auto& run : copied->runs(id)) list.push_back({run.begin, run.end});
    return list;
  };
  EXPECT_EQ(ranges(gate), (Range{{128, 192}}));
  EXPECT_EQ(ranges(up), (Range{{64, 192}}));
  EXPECT_EQ(ranges(MatrixId(0, Module::kQ)), (Range{{0, 24}}));
  EXPECT_EQ(ranges(down), (Range{{0, 12}}));
  EXPECT_EQ(ranges(MatrixId(1, Module::kQ)), Range{});
  EXPECT_FALSE(copied->whole(up));
  EXPECT_TRUE(copied->whole(down));
  EXPECT_EQ(copied->bytes(), 8 * (64 * 12 + 128 * 12 + 24 * 12 + 12 * 200));

  const Fork fork{model, stack, nullptr};
  for (const int64_t id : {gate, up, down, MatrixId(0, Module::kQ)}) {
    const at::Tensor expected = fork.EffectiveWeight(id), base = model->Weight(id);
    at::Tensor found = base.clone();
    for (const auto& run : copied->runs(id))
      found.narrow(0, run.begin, run.end - run.begin).copy_(run.linear.weight());
    EXPECT_LT((found - expected).abs().max().item<double>(), 1e-12);
  }
  // Beside other forks in one call; embedding and gain stay overlays.
  const Ragged rows = TinyRows({9, 4, 7, 5, 6}, 3);
  const std::vector<DeltaStack> forks{stack, {}, {{second, 1.0}}};
  const std::vector<double> overlay = ScoreWith(model, rows, forks, {});
  const std::vector<double> mixed = ScoreWith(model, rows, forks, {copied, nullptr, nullptr});
  const std::vector<double> whole = ScoreWith(model, rows, {stack}, {copied});
  const std::vector<double> alone = ScoreWith(model, rows, {stack}, {});
  for (size_t t = 0; t < overlay.size(); ++t) {
    if (std::isnan(overlay[t])) continue;
    EXPECT_NEAR(mixed[t], overlay[t], 1e-10);
    EXPECT_NEAR(whole[t], alone[t], 1e-10);
  }
}

TEST(Materialised, GenerationIsTheSameEitherWayAndTheCostModelDependsOnTheRowAlone) {
  const c10::InferenceMode inference;
  const auto model = TallModel(Dtype::kFloat32);
  auto dense = std::make_shared<Delta>();
  for (const int64_t id : {MatrixId(0, Module::kUp), MatrixId(1, Module::kDown)}) {
    dense->parts.push_back(TinyPart(*model, id, DeltaKind::kDense, 11 + id));
  }
  auto low = std::make_shared<Delta>();
  low->parts = {TinyPart(*model, 0, DeltaKind::kLowRank, 5)};
  // A dense change costs as much as its weight in each step: it pays from the sixth on. A low-rank one is
  // small.
  EXPECT_FALSE(MaterialisingPays(*model, {{dense, 1.0}}, 5));
  EXPECT_TRUE(MaterialisingPays(*model, {{dense, 1.0}}, 6));
  EXPECT_FALSE(MaterialisingPays(*model, {{low, 1.0}}, 2));
  EXPECT_FALSE(MaterialisingPays(*TallModel(Dtype::kBFloat16), {{dense, 1.0}}, 1000));

  GenerateSpec spec;
  spec.model = model;
  spec.prompts = TinyRows({5, 3, 6}, 23);
  spec.forks = {{{dense, 1.0}, {low, 1.0}}, {}};
  spec.prompt_fork = {0, 1, 0};
  spec.row_prompt = {0, 1, 2, 0};
  spec.max_tokens = {12, 12, 3, 9};
  spec.top_k = {0, 0, 0, 0};
  spec.temperature = {1, 1, 1, 1};
  spec.top_p = {1, 1, 1, 1};
  spec.keys = {1, 2, 3, 4};
  std::vector<GenerateResult> results;
  for (const Application application :
       {Application::kOverlay, Application::kMaterialised, Application::kAuto}) {
    spec.application = application;
    results.push_back(Generate(spec, JobControl()));
  }
  for (size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(results[1].tokens[r], results[0].tokens[r]);
    for (size_t i = 0; i < results[0].logprobs[r].size(); ++i) {
      EXPECT_NEAR(results[1].logprobs[r][i], results[0].logprobs[r][i], 1e-4);
    }
  }
  // Long rows of the fork run on copies, short ones and those of the unedited fork do not: to the bit.
  EXPECT_EQ(results[2].logprobs[0], results[1].logprobs[0]);
  EXPECT_EQ(results[2].logprobs[3], results[1].logprobs[3]);
  EXPECT_EQ(results[2].logprobs[1], results[0].logprobs[1]);
  EXPECT_EQ(results[2].logprobs[2], results[0].logprobs[2]);
}

}  // namespace
}  // namespace selfedit
