// Every kind of delta on every kind of weight: what a fork computes against a model that has the changed
// weights, and the gradient of a loss with respect to the delta's values against central finite differences,
// in float64.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/adapt.h"
#include "core/generate.h"
#include "core/gradient.h"
#include "core/score.h"
#include "core/support.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

constexpr DeltaKind kKinds[] = {DeltaKind::kLowRank, DeltaKind::kSparse, DeltaKind::kDense,
                                DeltaKind::kSpectral};

std::vector<double> ScoreOf(const std::shared_ptr<Model>& model, const Ragged& rows,
                            const DeltaStack& stack) {
  ScoreSpec spec;
  spec.model = model;
  spec.rows = rows;
  spec.forks = {stack};
  spec.row_fork.assign(rows.rows(), 0);
  return Score(spec, JobControl());
}

// The same change as a dense one: the twin of every kind.
DeltaPtr DenseTwin(const Model& model, const Delta& delta) {
  auto twin = std::make_shared<Delta>();
  for (const DeltaPart& part : delta.parts) {
    const MatrixInfo& info = model.tensors()[part.matrix];
    at::Tensor d;
    if (part.kind == DeltaKind::kSparse) {
      d = at::zeros({info.out, info.in}, part.values.options());
      for (int64_t i = 0; i < info.out; ++i) {
        for (int32_t k = part.row_offsets[i].item<int>(); k < part.row_offsets[i + 1].item<int>(); ++k) {
          d[i][part.columns[k].item<int>()] = part.values[k] * part.scale;
        }
      }
    } else if (part.kind == DeltaKind::kSpectral) {
      d = at::mm(at::mm(part.b, at::diag(part.sigma * part.values)), part.a) * part.scale;
    } else if (part.kind == DeltaKind::kLowRank) {
      d = at::mm(part.b, part.a) * part.scale;
    } else {
      d = part.values * part.scale;
    }
    twin->parts.push_back(DeltaPart::Dense(part.matrix, d.contiguous(), 1.0));
  }
  return twin;
}

// One id of every module.
std::vector<int64_t> OneOfEach(const Model& model) {
  std::vector<int64_t> ids;
  std::vector<bool> seen(32, false);
  for (size_t i = 0; i < model.tensors().size(); ++i) {
    const int module = static_cast<int>(model.tensors()[i].module);
    if (model.tensors()[i].layer == 0 || seen[module]) continue;  // layer 1, or outside of the layers
    seen[module] = true;
    ids.push_back(static_cast<int64_t>(i));
  }
  return ids;
}

std::shared_ptr<Model> TinyModel() { return Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5); }

TEST(DeltaKinds, EveryKindOnEveryWeightEqualsItsDenseTwinAndTheMaterialisedWeight) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : TinyArchitectures()) {
    SCOPED_TRACE(config.architecture);
    const auto model = Model::Random(config, Dtype::kFloat64, 7, 0.5);
    const Ragged rows = TinyRows({9, 1, 14, 5}, 3);
    const std::vector<double> unedited = ScoreOf(model, rows, {});
    for (const int64_t id : OneOfEach(*model)) {
      for (const DeltaKind kind : kKinds) {
        auto delta = std::make_shared<Delta>();
        delta->parts = {TinyPart(*model, id, kind, 40 + id)};
        delta->Check(*model);
        const std::vector<double> found = ScoreOf(model, rows, {{delta, 1.3}});
        const std::vector<double> twin = ScoreOf(model, rows, {{DenseTwin(*model, *delta), 1.3}});
        double moved = 0;
        for (size_t t = 0; t < found.size(); ++t) {
          if (std::isnan(unedited[t])) continue;
          EXPECT_NEAR(found[t], twin[t], 1e-9) << model->tensors()[id].name << " " << DeltaKindName(kind);
          moved = std::max(moved, std::abs(found[t] - unedited[t]));
        }
        // The biases of this model are zero: they have no singular value that could be scaled.
        const bool nothing =
            kind == DeltaKind::kSpectral && model->Weight(id).count_nonzero().item<int64_t>() == 0;
        EXPECT_EQ(moved > 1e-5, !nothing) << model->tensors()[id].name << " " << DeltaKindName(kind);
        const at::Tensor expected = model->Weight(id) + DenseTwin(*model, *delta)->parts[0].values * 1.3;
        EXPECT_LT((Fork{model, {{delta, 1.3}}}.EffectiveWeight(id) - expected).abs().max().item<double>(),
                  1e-12);
      }
    }
  }
}

TEST(DeltaKinds, MixedStacksOfManyForksInOneCallEqualEachForkAlone) {
  const c10::InferenceMode inference;
  const auto model = TinyModel();
  const TensorIds& ids = model->ids();
  auto make = [&](std::vector<std::pair<int64_t, DeltaKind>> parts, uint64_t key) {
    auto delta = std::make_shared<Delta>();
    for (const auto& [id, kind] : parts) delta->parts.push_back(TinyPart(*model, id, kind, key++));
    delta->Check(*model);
    return DeltaPtr(delta);
  };
  const DeltaPtr parent =
      make({{0, DeltaKind::kLowRank}, {0, DeltaKind::kSparse}, {6, DeltaKind::kSpectral}}, 1);
  const DeltaPtr a = make(
      {{6, DeltaKind::kDense}, {ids.embedding, DeltaKind::kSparse}, {ids.final_norm, DeltaKind::kDense}}, 9);
  const DeltaPtr b = make(
      {{2, DeltaKind::kLowRank}, {ids.head, DeltaKind::kLowRank}, {ids.bias[2], DeltaKind::kSparse}}, 17);
  ScoreSpec spec;
  spec.model = model;
  spec.rows = TinyRows({6, 9, 4, 7, 5}, 23);
  spec.forks = {
      {}, {{parent, 1.0}}, {{parent, 1.0}, {a, 0.5}}, {{parent, 1.0}, {b, 2.0}, {a, -1.0}}, {{b, 1.0}}};
  spec.row_fork = {3, 0, 2, 1, 4};
  const std::vector<double> together = Score(spec, JobControl());
  for (int64_t r = 0; r < 5; ++r) {
    const Ragged one = GatherRows(spec.rows, {r});
    const std::vector<double> alone = ScoreOf(model, one, spec.forks[spec.row_fork[r]]);
    for (int64_t i = 1; i < one.length(0); ++i) {
      EXPECT_EQ(together[spec.rows.offsets[r] + i], alone[i])
          << "row " << r;  // bits: nothing depends on the mates
    }
  }
  // What was scored is what is sampled from.
  GenerateSpec generate;
  generate.model = model;
  generate.prompts = spec.rows;
  generate.forks = spec.forks;
  generate.prompt_fork = spec.row_fork;
  for (int32_t r = 0; r < 5; ++r) {
    generate.row_prompt.push_back(r);
    generate.max_tokens.push_back(6);
    generate.top_k.push_back(0);
    generate.temperature.push_back(1);
    generate.top_p.push_back(1);
    generate.keys.push_back(77 + r);
  }
  const GenerateResult sampled = Generate(generate, JobControl());
  for (int64_t r = 0; r < 5; ++r) {
    Ragged row;
    std::vector<int32_t> tokens(spec.rows.tokens.begin() + spec.rows.offsets[r],
                                spec.rows.tokens.begin() + spec.rows.offsets[r + 1]);
    const size_t prompt = tokens.size();
    tokens.insert(tokens.end(), sampled.tokens[r].begin(), sampled.tokens[r].end());
    row.Append(tokens.data(), static_cast<int64_t>(tokens.size()));
    const std::vector<double> scored = ScoreOf(model, row, spec.forks[spec.row_fork[r]]);
    for (size_t i = 0; i < sampled.tokens[r].size(); ++i) {
      EXPECT_NEAR(sampled.logprobs[r][i], scored[prompt + i], 1e-6);
    }
  }
}

TEST(DeltaKinds, GradientsAgreeWithFiniteDifferencesForEveryKindOnEveryWeight) {
  const c10::InferenceMode inference;
  for (const ModelConfig& config : TinyArchitectures()) {
    SCOPED_TRACE(config.architecture);
    const auto model = Model::Random(config, Dtype::kFloat64, 7, 0.5);
    const Ragged rows = TinyRows({8, 1, 11, 5}, 3);
    auto below = std::make_shared<Delta>();
    below->parts = {TinyPart(*model, 1, DeltaKind::kLowRank, 90),
                    TinyPart(*model, model->ids().mlp_norm[2], DeltaKind::kDense, 91)};
    auto above = std::make_shared<Delta>();
    above->parts = {TinyPart(*model, 4, DeltaKind::kSparse, 93)};
    for (const DeltaKind kind : kKinds) {
      auto delta = std::make_shared<Delta>();
      for (const int64_t id : OneOfEach(*model)) delta->parts.push_back(TinyPart(*model, id, kind, 200 + id));
      GradientSpec spec;
      spec.model = model;
      spec.rows = rows;
      spec.forks = {{{below, 1.0}, {delta, 0.8}, {above, 1.0}}};
      spec.row_fork = {0, 0, 0, 0};
      spec.level = {1};
      spec.temperature = 0.9;
      for (const double u : Uniform(5, static_cast<int64_t>(rows.tokens.size())))
        spec.cotangents.push_back(u - 0.3);
      const GradientResult result = Gradient(spec, JobControl());
      auto loss_of = [&](const DeltaPtr& changed) {
        ScoreSpec score;
        score.model = model;
        score.rows = rows;
        score.forks = {{{below, 1.0}, {changed, 0.8}, {above, 1.0}}};
        score.row_fork = spec.row_fork;
        score.temperature = spec.temperature;
        const std::vector<double> logprobs = Score(score, JobControl());
        double sum = 0;
        for (size_t t = 0; t < logprobs.size(); ++t) {
          if (!std::isnan(logprobs[t])) sum += spec.cotangents[t] * logprobs[t];
        }
        return sum;
      };
      double largest = 0;
      for (size_t p = 0; p < delta->parts.size(); ++p) {
        const size_t tensors = delta->parts[p].trainable().size();
        for (size_t which = 0; which < tensors; ++which) {
          const at::Tensor found = result.gradients[0]->parts[p].trainable()[which].reshape(-1);
          const int64_t count = found.numel();
          for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / 3)) {
            auto shifted = [&](double step) {
              auto copy = std::make_shared<Delta>(*delta);
              DeltaPart& part = copy->parts[p];
              at::Tensor& values = kind != DeltaKind::kLowRank ? part.values : which == 0 ? part.a : part.b;
              values = values.clone();
              values.view({-1}).mutable_data_ptr<double>()[i] += step;
              return loss_of(copy);
            };
            // Of fourth order: the loss of the tied model is too curved for two points.
            const double h = 1e-4;
            const double expected =
                (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
            const double value = found.const_data_ptr<double>()[i];
            EXPECT_NEAR(value, expected, 1e-6 * std::max(1.0, std::abs(expected)))
                << model->tensors()[delta->parts[p].matrix].name << " " << DeltaKindName(kind) << " value "
                << i;
            largest = std::max(largest, std::abs(expected));
          }
        }
      }
      EXPECT_GT(largest, 0.1) << DeltaKindName(kind);
    }
  }
}

TEST(DeltaKinds, AdaptTrainsAGivenSupportAndLeavesTheRestAlone) {
  const c10::InferenceMode inference;
  const auto model = TinyModel();
  AdaptSpec spec;
  spec.model = model;
  spec.documents = TinyRows({12, 9, 7}, 31);
  for (const DeltaKind kind : kKinds) {
    auto start = std::make_shared<Delta>();
    start->parts = {TinyPart(*model, 3, kind, 5),
                    TinyPart(*model, model->ids().attention_norm[1], DeltaKind::kDense, 6)};
    SlotSpec slot;
    slot.last_document = 3;
    slot.epochs = 6;
    slot.learning_rate = 0.02;
    slot.init = start;
    spec.slots.push_back(slot);
  }
  // The first slot is low-rank on a matrix and dense on a gain: mixed, so it is trained as it is too.
  const AdaptResult result = Adapt(spec, JobControl());
  for (size_t s = 0; s < 4; ++s) {
    auto epoch = [&](size_t e) {
      return result.loss[s][3 * e] + result.loss[s][3 * e + 1] + result.loss[s][3 * e + 2];
    };
    EXPECT_LT(epoch(5), epoch(0) * 0.97) << s;
    const DeltaPart& before = spec.slots[s].init->parts[0];
    const DeltaPart& after = result.deltas[s]->parts[0];
    EXPECT_EQ(after.kind, before.kind);
    if (before.kind == DeltaKind::kSparse) {
      EXPECT_TRUE(at::equal(after.columns, before.columns));
      EXPECT_TRUE(at::equal(after.row_offsets, before.row_offsets));
    }
    EXPECT_FALSE(at::equal(after.trainable()[0], before.trainable()[0]));
  }
  // Alone and together: the same bits.
  AdaptSpec alone = spec;
  alone.slots = {spec.slots[1]};
  const AdaptResult one = Adapt(alone, JobControl());
  EXPECT_TRUE(at::equal(one.deltas[0]->parts[0].values, result.deltas[1]->parts[0].values));
  EXPECT_EQ(one.loss[0], result.loss[1]);
}

TEST(DeltaKinds, TheChosenSupportHoldsTheLargestGradientsAndTheLargestSquares) {
  const c10::InferenceMode inference;
  const auto model = TinyModel();
  const Ragged documents = TinyRows({10, 6}, 41);
  std::vector<uint8_t> mask(documents.tokens.size(), 1);
  mask[4] = 0;
  const std::vector<int32_t> ids{2, 13};
  // The dense gradient by the general call, document by document.
  auto dense_gradient = [&](int64_t document) {
    auto zero = std::make_shared<Delta>();
    for (const int32_t id : ids) {
      const MatrixInfo& info = model->tensors()[id];
      zero->parts.push_back(DeltaPart::Dense(id, at::zeros({info.out, info.in}, at::kDouble), 1.0));
    }
    GradientSpec spec;
    spec.model = model;
    spec.rows = GatherRows(documents, {document});
    spec.forks = {{{zero, 1.0}}};
    spec.row_fork = {0};
    spec.level = {0};
    double count = 0;
    for (int64_t i = 1; i < spec.rows.length(0); ++i) count += mask[documents.offsets[document] + i];
    for (int64_t i = 0; i < spec.rows.length(0); ++i) {
      spec.cotangents.push_back(i == 0 ? 0.0 : -mask[documents.offsets[document] + i] / count);
    }
    return Gradient(spec, JobControl()).gradients[0];
  };
  const DeltaPtr first = dense_gradient(0), second = dense_gradient(1);
  for (const Selection selection : {Selection::kGradient, Selection::kFisher}) {
    const DeltaPtr support = ChooseSupport(*model, {}, documents, mask, ids, 0.1, selection, JobControl());
    for (size_t p = 0; p < ids.size(); ++p) {
      const MatrixInfo& info = model->tensors()[ids[p]];
      const at::Tensor g = first->parts[p].values, h = second->parts[p].values;
      const at::Tensor score = selection == Selection::kGradient ? (g + h).abs() : g * g + h * h;
      const int64_t k = static_cast<int64_t>(std::ceil(0.1 * static_cast<double>(info.out * info.in)));
      ASSERT_EQ(support->parts[p].values.numel(), k);
      const DeltaPart ones = DeltaPart::Sparse(ids[p], support->parts[p].row_offsets,
                                               support->parts[p].columns, at::ones({k}, at::kDouble), 1.0);
      const at::Tensor chosen = ones.Materialise(info.out, info.in);
      const double least = score.masked_select(chosen > 0).min().item<double>();
      const double rest = score.masked_select(chosen == 0).max().item<double>();
      EXPECT_GE(least, rest * (1 - 1e-9));
    }
  }
}

TEST(Support, LargestEntriesAgreeWithAFullSort) {
  const c10::InferenceMode inference;
  for (uint64_t key = 1; key <= 20; ++key) {
    // Few different magnitudes, so that ties are everywhere, and zeros.
    const at::Tensor x = at::round(Filled({7, 9}, key, key % 2 == 0 ? 2.5 : 50)).to(at::kFloat);
    std::vector<int64_t> order(63);
    std::iota(order.begin(), order.end(), 0);
    const float* values = x.const_data_ptr<float>();
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return std::abs(values[a]) > std::abs(values[b]); });
    for (int64_t k = -1; k <= 64; ++k) {
      std::vector<int64_t> expected(order.begin(), order.begin() + std::clamp<int64_t>(k, 0, 63));
      std::sort(expected.begin(), expected.end());
      ASSERT_EQ(LargestEntries(x, k), expected) << key << " " << k;
    }
  }
  EXPECT_EQ(SupportSize(0.07, 100), 7);  // 0.07 * 100 is 7.000000000000001
  EXPECT_EQ(SupportSize(0.071, 100), 8);
  EXPECT_EQ(SupportSize(1e-9, 100), 1);
  EXPECT_EQ(SupportSize(1, 100), 100);
}

TEST(Support, AGradientThatOverflowsChoosesNothing) {
  const c10::InferenceMode inference;
  const auto model = TinyModel();
  const auto huge = std::make_shared<Delta>();
  // Queries and keys of the first layer: their products leave float64.
  for (const int64_t id : {0, 1}) huge->parts.push_back(TinyPart(*model, id, DeltaKind::kLowRank, 1, 1e200));
  try {
    ChooseSupport(*model, {{huge, 1.0}}, TinyRows({6}, 7), {}, {0}, 0.1, Selection::kGradient, JobControl());
    FAIL() << "expected LOSS_NOT_FINITE";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOSS_NOT_FINITE") << error.what();
    EXPECT_NE(std::string(error.what()).find("model.layers.0.self_attn.q_proj"), std::string::npos);
  }
}

TEST(DeltaKinds, RefusesWhatWouldBeReadWrong) {
  const c10::InferenceMode inference;
  const auto model = TinyModel();
  auto code_of = [&](DeltaPart part) {
    Delta delta;
    delta.parts = {std::move(part)};
    try {
      delta.Check(*model);
    } catch (const Error& error) {
      return error.code() + ": " + error.what();
    }
    return std::string("accepted");
  };
  const DeltaPart good = TinyPart(*model, 3, DeltaKind::kSparse, 1);
  auto changed = [&](auto change) {
    DeltaPart part = good;
    part.row_offsets = good.row_offsets.clone();
    part.columns = good.columns.clone();
    part.values = good.values.clone();
    change(part);
    return code_of(part);
  };
  EXPECT_EQ(code_of(good), "accepted");
  EXPECT_NE(changed([](DeltaPart& p) {
              p.columns.mutable_data_ptr<int32_t>()[1] = p.columns.const_data_ptr<int32_t>()[0];
            }).find("expected ascending columns, each once"),
            std::string::npos);
  EXPECT_NE(changed([](DeltaPart& p) {
              std::swap(p.columns.mutable_data_ptr<int32_t>()[0], p.columns.mutable_data_ptr<int32_t>()[1]);
            }).find("DELTA_INVALID"),
            std::string::npos);
  EXPECT_NE(changed([](DeltaPart& p) {
              p.columns.mutable_data_ptr<int32_t>()[0] = 24;
            }).find("names column 24; there are 24"),
            std::string::npos);
  EXPECT_NE(changed([](DeltaPart& p) {
              p.row_offsets.mutable_data_ptr<int32_t>()[3] = 100;
            }).find("row offsets fall"),
            std::string::npos);
  EXPECT_NE(
      changed([](DeltaPart& p) { p.row_offsets.mutable_data_ptr<int32_t>()[0] = 1; }).find("expected 0 to"),
      std::string::npos);
  EXPECT_NE(
      changed([](DeltaPart& p) { p.values.mutable_data_ptr<double>()[2] = NAN; }).find("NaN or infinite"),
      std::string::npos);
  EXPECT_NE(changed([](DeltaPart& p) { p.values = p.values.to(at::kFloat); }).find("Float values"),
            std::string::npos);
  EXPECT_NE(changed([](DeltaPart& p) { p.columns = p.columns.to(at::kLong); }).find("expected int32"),
            std::string::npos);
  EXPECT_NE(code_of(DeltaPart::Dense(3, at::zeros({2, 2}, at::kDouble), 1)).find("DELTA_SHAPE"),
            std::string::npos);
  DeltaPart spectral = TinyPart(*model, 3, DeltaKind::kSpectral, 1);
  spectral.values = at::zeros({1}, at::kDouble);
  EXPECT_NE(code_of(spectral).find("DELTA_SHAPE"), std::string::npos);
  Delta twice;
  twice.parts = {good, good};
  EXPECT_THROW(twice.Check(*model), Error);
}

}  // namespace
}  // namespace selfedit
