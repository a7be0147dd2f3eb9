// Hidden states of what rows are compared with: the same bits as each row read alone, and no text read twice.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/references.h"
#include "core/score.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

// Six rows over three distinct texts; which of two forks each is compared with, one with none.
class ReferencesTest : public testing::Test {
 protected:
  ReferencesTest()
      : model_(Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.5)), texts_(TinyRows({5, 9, 3}, 3)) {
    for (const int text : {0, 1, 0, 2, 0, 1}) {
      rows_.Append(texts_.tokens.data() + texts_.offsets[text], texts_.length(text));
    }
    const int64_t matrix = 0;
    forks_ = {DeltaStack{}, DeltaStack{}};
    auto delta = std::make_shared<Delta>();
    delta->parts.push_back(TinyPart(*model_, matrix, DeltaKind::kLowRank, 11));
    forks_[1].push_back({delta, 1.0});
  }
  Ragged Alone(int64_t row) const { return GatherRows(rows_, {row}); }

  const c10::InferenceMode inference_;
  std::shared_ptr<Model> model_;
  Ragged texts_, rows_;
  std::vector<DeltaStack> forks_;
  const std::vector<int32_t> reference_{0, 0, 0, -1, 1, 0};
};

TEST_F(ReferencesTest, ReadsASharedTextOnceAndGivesTheBitsOfARowReadAlone) {
  References references(*model_, rows_, forks_, reference_);
  // Over two batches: what the first has read serves the second.
  for (const std::vector<int64_t>& batch : {std::vector<int64_t>{0, 1, 2}, std::vector<int64_t>{5, 3, 4}}) {
    const at::Tensor hidden = references.Hidden(batch);
    ASSERT_EQ(hidden.sizes(), (std::vector<int64_t>{GatherRows(rows_, batch).offsets.back(), 12}));
    int64_t begin = 0;
    for (const int64_t row : batch) {
      const int64_t length = rows_.length(row);
      if (reference_[row] >= 0) {
        const at::Tensor alone = HiddenStates(*model_, Alone(row), forks_[reference_[row]]);
        EXPECT_TRUE(hidden.narrow(0, begin, length).equal(alone)) << "row " << row;
      }
      begin += length;
    }
  }
  // Texts of 5 and 9 tokens under fork 0, the one of 5 under fork 1; the row without a reference is not read.
  EXPECT_EQ(references.tokens_read(), 5 + 9 + 5);
  // The forks differ, so a text of one must not stand for the other's.
  EXPECT_FALSE(references.Hidden({0}).equal(references.Hidden({4})));
  EXPECT_EQ(references.tokens_read(), 5 + 9 + 5 + 5 + 5) << "nothing is kept after the last row has asked";
  EXPECT_EQ(references.tokens_kept(), 0);
}

TEST_F(ReferencesTest, KeepsNoMoreThanItsLimit) {
  // Each text twice, first all of them once: more than may be kept.
  const int64_t length = 48, texts = References::kMostKeptTokens / length + 20;
  const Ragged many = TinyRows(std::vector<int>(20, static_cast<int>(length)), 9);
  Ragged rows;
  for (int64_t i = 0; i < 2 * texts; ++i) {
    std::vector<int32_t> tokens(many.tokens.begin(), many.tokens.begin() + length);
    tokens[0] = static_cast<int32_t>(i % texts % 37);
    tokens[1] = static_cast<int32_t>(i % texts / 37);
    rows.Append(tokens.data(), length);
  }
  const std::vector<int32_t> reference(rows.rows(), 0);
  References references(*model_, rows, forks_, reference);
  std::vector<int64_t> half(texts);
  std::iota(half.begin(), half.end(), 0);
  const at::Tensor first = references.Hidden(half);
  EXPECT_LE(references.tokens_kept(), References::kMostKeptTokens);
  EXPECT_GT(references.tokens_kept(), References::kMostKeptTokens - length);
  std::iota(half.begin(), half.end(), texts);
  EXPECT_TRUE(references.Hidden(half).equal(first));
  EXPECT_EQ(references.tokens_kept(), 0);
  EXPECT_EQ(references.tokens_read(), length * (2 * texts - References::kMostKeptTokens / length));
}

TEST_F(ReferencesTest, DivergenceOfManyRowsHasTheBitsOfEachAlone) {
  DivergenceSpec spec;
  spec.model = model_;
  spec.rows = rows_;
  spec.forks = forks_;
  spec.row_fork = {1, 1, 0, 1, 0, 1};
  spec.row_reference = {0, 0, 1, 0, 1, 0};
  const JobControl control;
  for (const int64_t most : {0, 12}) {
    spec.max_batch_tokens = most;
    const std::vector<double> all = Divergence(spec, control);
    for (int64_t row = 0; row < rows_.rows(); ++row) {
      DivergenceSpec one = spec;
      one.rows = Alone(row);
      one.row_fork = {spec.row_fork[row]};
      one.row_reference = {spec.row_reference[row]};
      const std::vector<double> alone = Divergence(one, control);
      for (int64_t i = 0; i < rows_.length(row); ++i) {
        EXPECT_EQ(all[rows_.offsets[row] + i], alone[i]) << "row " << row << ", position " << i;
        // The first token sees only itself, which a change of the queries leaves as it is.
        if (i > 0) {
          EXPECT_GT(std::abs(alone[i]), 0) << "row " << row << ", position " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace selfedit
