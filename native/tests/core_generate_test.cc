// Prefixes that the questions of one fork share, and parents that the edits of one call share.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "core/generate.h"
#include "core/overlay.h"
#include "core/score.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

GenerateSpec Questions(const std::shared_ptr<Model>& model) {
  // Six prompts under two forks; in each fork two begin with the same five tokens, the third has no prefix of
  // its own.
  GenerateSpec spec;
  spec.model = model;
  const Ragged draws = TinyRows({5, 4, 3, 7, 2, 6, 8}, 3);
  auto piece = [&](int64_t row) {
    return std::vector<int32_t>(draws.tokens.begin() + draws.offsets[row],
                                draws.tokens.begin() + draws.offsets[row + 1]);
  };
  for (int32_t fork = 0; fork < 2; ++fork) {
    for (int32_t question = 0; question < 3; ++question) {
      std::vector<int32_t> tokens = question < 2 ? piece(0) : std::vector<int32_t>();
      const std::vector<int32_t> rest = piece(1 + 3 * fork + question);
      tokens.insert(tokens.end(), rest.begin(), rest.end());
      spec.prompts.Append(tokens.data(), static_cast<int64_t>(tokens.size()));
      spec.shared_prefix.push_back(question < 2 ? 5 : 0);
      spec.prompt_fork.push_back(fork);
      for (int sample = 0; sample < 2; ++sample) {
        spec.row_prompt.push_back(fork * 3 + question);
        spec.max_tokens.push_back(6);
        spec.top_k.push_back(0);
        spec.temperature.push_back(1);
        spec.top_p.push_back(1);
        spec.keys.push_back(100 + spec.row_prompt.size());
      }
    }
  }
  auto delta = std::make_shared<Delta>();
  delta->parts = {TinyPart(*model, 0, DeltaKind::kLowRank, 5), TinyPart(*model, 9, DeltaKind::kSparse, 7)};
  spec.forks = {{}, {{delta, 1.0}}};
  return spec;
}

TEST(Generate, PromptsBehindASharedPrefixAreReadAsTheyWouldBeWhole) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : TinyArchitectures())
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
      SCOPED_TRACE(config.architecture);
      const auto model = Model::Random(config, dtype, 7, 0.4);
      GenerateSpec spec = Questions(model);
      const GenerateResult shared = Generate(spec, JobControl());
      // Fewer places than rows, and prompts one by one: the prefix was read by an earlier pass.
      spec.max_rows = 1;
      const GenerateResult queued = Generate(spec, JobControl());
      spec.max_rows = 0;
      spec.shared_prefix.clear();
      const GenerateResult whole = Generate(spec, JobControl());
      for (size_t r = 0; r < shared.tokens.size(); ++r) {
        EXPECT_EQ(shared.tokens[r], whole.tokens[r]) << "row " << r;
        EXPECT_EQ(queued.tokens[r], shared.tokens[r]) << "row " << r;
        EXPECT_EQ(queued.logprobs[r], shared.logprobs[r])
            << "row " << r;  // bits: nothing depends on the mates
        for (size_t i = 0; i < shared.logprobs[r].size(); ++i) {
          EXPECT_NEAR(shared.logprobs[r][i], whole.logprobs[r][i], dtype == Dtype::kFloat64 ? 1e-6 : 2e-4);
        }
      }
    }
}

// Token by token, behind prefixes and over the edges of windows, or all at once.
TEST(Generate, LogprobsAreThoseOfTheWholeText) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : TinyArchitectures()) {
    SCOPED_TRACE(config.architecture);
    const auto model = Model::Random(config, Dtype::kFloat64, 7, 0.4);
    GenerateSpec spec = Questions(model);
    spec.max_tokens.assign(spec.max_tokens.size(), 12);
    const GenerateResult made = Generate(spec, JobControl());
    ScoreSpec score;
    score.model = model;
    score.forks = spec.forks;
    for (size_t r = 0; r < made.tokens.size(); ++r) {
      const int32_t prompt = spec.row_prompt[r];
      std::vector<int32_t> text(spec.prompts.tokens.begin() + spec.prompts.offsets[prompt],
                                spec.prompts.tokens.begin() + spec.prompts.offsets[prompt + 1]);
      text.insert(text.end(), made.tokens[r].begin(), made.tokens[r].end());
      score.rows.Append(text.data(), static_cast<int64_t>(text.size()));
      score.row_fork.push_back(spec.prompt_fork[prompt]);
    }
    const std::vector<double> whole = Score(score, JobControl());
    for (size_t r = 0; r < made.tokens.size(); ++r) {
      const size_t first = score.rows.offsets[r + 1] - made.tokens[r].size();
      for (size_t i = 0; i < made.tokens[r].size(); ++i) {
        EXPECT_NEAR(made.logprobs[r][i], whole[first + i], 1e-5) << "row " << r << " token " << i;
      }
    }
  }
}

TEST(Generate, APrefixMustBeShorterThanItsPrompt) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.4);
  for (const int32_t length : {-1, 9, 100}) {
    GenerateSpec spec = Questions(model);
    spec.shared_prefix[0] = length;
    try {
      Generate(spec, JobControl());
      ADD_FAILURE() << "accepted " << length;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "OPTION_INVALID");
    }
  }
}

TEST(Overlay, ASharedParentIsOneProductForAllForksOfACall) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.4);
  auto make = [&](uint64_t key) {
    auto delta = std::make_shared<Delta>();
    delta->parts = {TinyPart(*model, 0, DeltaKind::kLowRank, key)};
    return DeltaPtr(delta);
  };
  const DeltaPtr parent = make(1);
  std::vector<DeltaStack> stacks;
  for (uint64_t k = 0; k < 5; ++k) stacks.push_back({{parent, 1.0}, {make(10 + k), 1.0}});
  std::vector<DocumentDeltas> documents;
  for (const DeltaStack& stack : stacks) documents.push_back({&stack, nullptr});
  const std::vector<int32_t> offsets{0, 3, 7, 8, 12, 20};
  EXPECT_EQ(MakeOverlayPlan(*model, offsets, documents).segments(0), 1 + 5);
  // A stack of its own for the parent's copy is another delta: no sharing by equal values.
  stacks[2][0].delta = make(1);
  EXPECT_EQ(MakeOverlayPlan(*model, offsets, documents).segments(0), 3 + 5);
}

}  // namespace
}  // namespace selfedit
