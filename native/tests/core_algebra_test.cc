// Operations on deltas against dense twins in float64.
#include <numeric>

#include "core_delta_helpers.h"

namespace selfedit {
namespace {

using delta_test::DeltaOf;
using delta_test::Difference;
using delta_test::Draw;
using delta_test::ExpectCode;
using delta_test::MixedDelta;
using delta_test::RandomPart;
using delta_test::SameBits;
using delta_test::TinyModel;
using delta_test::Twin;

constexpr DeltaKind kKinds[] = {DeltaKind::kLowRank, DeltaKind::kSparse, DeltaKind::kDense,
                                DeltaKind::kSpectral};
const double kTolerance[] = {1e-6, 1e-13};  // float32, float64
const Dtype kTypes[] = {Dtype::kFloat32, Dtype::kFloat64};

// ---- add, scale, difference

TEST(AddDeltas, IsTheSumOfAllParts) {
  const c10::InferenceMode inference;
  for (int t = 0; t < 2; ++t) {
    const auto model = TinyModel(kTypes[t]);
    const DeltaPtr a = MixedDelta(*model, 1), b = MixedDelta(*model, 2), c = MixedDelta(*model, 3);
    const DeltaPtr sum = AddDeltas(*model, {{a, 0.5}, {b, -2}, {c, 1.75}});
    const auto twin = [&](int64_t id) {
      return Twin(*a, *model, id) * 0.5 - Twin(*b, *model, id) * 2 + Twin(*c, *model, id) * 1.75;
    };
    EXPECT_LT(Difference(
                  *model, [&](int64_t id) { return Twin(*sum, *model, id); }, twin),
              kTolerance[t]);
    EXPECT_EQ(sum->parts.size(), a->parts.size());
  }
}

TEST(AddDeltas, SubtractingGivesTheFirstBack) {
  const c10::InferenceMode inference;
  for (int t = 0; t < 2; ++t) {
    const auto model = TinyModel(kTypes[t]);
    const DeltaPtr a = MixedDelta(*model, 1), b = MixedDelta(*model, 2);
    const DeltaPtr back = AddDeltas(*model, {{AddDeltas(*model, {{a, 1}, {b, 1}}), 1}, {b, -1}});
    EXPECT_LT(Difference(*model, *back, *a), kTolerance[t]);
    const DeltaPtr zero = AddDeltas(*model, {{a, 1}, {a, -1}});
    for (size_t id = 0; id < model->tensors().size(); ++id) {
      EXPECT_LT(Twin(*zero, *model, static_cast<int64_t>(id)).abs().max().item<double>(), 10 * kTolerance[t]);
    }
  }
}

TEST(AddDeltas, RanksAddUpAndEqualFactorsAreNotRounded) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPart p = RandomPart(*model, DeltaKind::kLowRank, 2, 3, 1, 0.3),
                  q = RandomPart(*model, DeltaKind::kLowRank, 2, 4, 5, 0.3);
  const DeltaPtr sum = AddDeltas(*model, {{DeltaOf(*model, {p}), 0.7}, {DeltaOf(*model, {q}), -0.7}});
  ASSERT_EQ(sum->parts.size(), 1u);
  EXPECT_EQ(sum->parts[0].rank(), 7);
  EXPECT_TRUE(SameBits(sum->parts[0].a, at::cat({p.a, q.a}, 0)));
  EXPECT_TRUE(SameBits(sum->parts[0].b, at::cat({p.b, -q.b}, 1).contiguous()));
  EXPECT_EQ(sum->parts[0].scale, 0.3 * 0.7);
}

TEST(AddDeltas, PatternsAreUnited) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  const auto sparse = [&](std::vector<int32_t> row, std::vector<int32_t> columns,
                          std::vector<double> values) {
    std::vector<int32_t> offsets(17, static_cast<int32_t>(columns.size()));
    std::copy(row.begin(), row.end(), offsets.begin());
    return DeltaOf(*model, {DeltaPart::Sparse(0, at::tensor(offsets, at::kInt), at::tensor(columns, at::kInt),
                                              at::tensor(values, at::kDouble), 1)});
  };
  const DeltaPtr sum = AddDeltas(
      *model, {{sparse({0, 2, 2}, {1, 4, 0}, {1, 2, 3}), 1}, {sparse({0, 1, 2}, {4, 7}, {10, 20}), 2}});
  const DeltaPart& part = sum->parts.at(0);
  std::vector<int32_t> offsets(17, 4);
  offsets[0] = 0, offsets[1] = 2, offsets[2] = 3;
  EXPECT_TRUE(SameBits(part.row_offsets, at::tensor(offsets, at::kInt)));
  EXPECT_TRUE(SameBits(part.columns, at::tensor({1, 4, 7, 0}, at::kInt)));
  EXPECT_TRUE(SameBits(part.values, at::tensor({1.0, 22.0, 40.0, 3.0}, at::kDouble)));
}

TEST(AddDeltas, SpectralPartsOfOtherFactorsBecomeLowRank) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  DeltaPart p = RandomPart(*model, DeltaKind::kSpectral, 0, 3, 1, 1.5), q = p, other = p;
  q.values = Draw({3}, 9);
  other.b = -other.b;  // U of other signs is another factor
  q.b = q.b.clone();   // equal values elsewhere in memory are not
  const DeltaPtr same = AddDeltas(*model, {{DeltaOf(*model, {p}), 1}, {DeltaOf(*model, {q}), 2}});
  ASSERT_EQ(same->parts.size(), 1u);
  EXPECT_EQ(same->parts[0].kind, DeltaKind::kSpectral);
  EXPECT_LT((Twin(*same, *model, 0) - Twin(p, model->tensors()[0]) - 2 * Twin(q, model->tensors()[0]))
                .abs()
                .max()
                .item<double>(),
            1e-13);
  const DeltaPtr apart = AddDeltas(*model, {{DeltaOf(*model, {p}), 1}, {DeltaOf(*model, {other}), 2}});
  ASSERT_EQ(apart->parts.size(), 2u);
  EXPECT_EQ(apart->parts[0].kind, DeltaKind::kLowRank);
  EXPECT_EQ(apart->parts[1].kind, DeltaKind::kSpectral);
  EXPECT_LT((Twin(*apart, *model, 0) + Twin(p, model->tensors()[0])).abs().max().item<double>(), 1e-13);
}

TEST(AddDeltas, NothingAndZero) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat32);
  EXPECT_TRUE(AddDeltas(*model, {})->parts.empty());
  const DeltaPtr a = MixedDelta(*model, 1), zero = AddDeltas(*model, {{a, 0}, {MixedDelta(*model, 2), 0}});
  for (size_t id = 0; id < model->tensors().size(); ++id) {
    EXPECT_EQ(Twin(*zero, *model, static_cast<int64_t>(id)).abs().max().item<double>(), 0);
  }
  // A sum that leaves float32 is refused, not saturated.
  const DeltaPtr huge = DeltaOf(*model, {DeltaPart::Dense(0, at::full({16, 12}, 3e38f), 1)});
  ExpectCode("DELTA_INVALID", "q_proj", [&] { AddDeltas(*model, {{huge, 1}, {huge, 1}}); });
}

TEST(AddDeltas, OneAloneChangesItsScaleAlone) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  const DeltaPtr a = MixedDelta(*model, 1), scaled = AddDeltas(*model, {{a, -3}});
  const auto twin = [&](int64_t id) { return Twin(*a, *model, id) * -3; };
  EXPECT_LT(Difference(
                *model, [&](int64_t id) { return Twin(*scaled, *model, id); }, twin),
            1e-14);
  EXPECT_TRUE(scaled->parts[0].a.is_same(a->parts[0].a));
  EXPECT_EQ(a->parts[0].scale, 0.7);
  ExpectCode("DELTA_INVALID", "scale", [&] { AddDeltas(*model, {{a, NAN}}); });
}

TEST(DeltaDifference, LeavesOutWhatBothBeginWith) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  const DeltaPtr parent = MixedDelta(*model, 1), a = MixedDelta(*model, 2), b = MixedDelta(*model, 3);
  const DeltaPtr rank_one = DeltaOf(*model, {RandomPart(*model, DeltaKind::kLowRank, 4, 1, 77, 1)});
  const Fork to{model, {{parent, 1}, {a, 0.5}, {rank_one, 1}}}, from{model, {{parent, 1}, {a, 0.5}, {b, 2}}};
  const DeltaPtr difference = DeltaDifference(to, from);
  const auto twin = [&](int64_t id) { return to.EffectiveWeight(id) - from.EffectiveWeight(id); };
  EXPECT_LT(Difference(
                *model, [&](int64_t id) { return Twin(*difference, *model, id); }, twin),
            1e-13);
  // Nothing of the parent, nor of a.
  ASSERT_EQ(difference->parts.size(), b->parts.size() + 1);
  EXPECT_EQ(difference->parts[0].rank(), 3);
  // Added to `from` it gives `to`.
  const Fork sum{model, {{parent, 1}, {a, 0.5}, {b, 2}, {difference, 1}}};
  EXPECT_LT(Difference(
                *model, [&](int64_t id) { return sum.EffectiveWeight(id); },
                [&](int64_t id) { return to.EffectiveWeight(id); }),
            1e-13);
  EXPECT_TRUE(DeltaDifference(to, to)->parts.empty());
  // The same delta at another scale is not the same.
  const DeltaPtr scales = DeltaDifference({model, {{rank_one, 1}}}, {model, {{rank_one, 0.25}}});
  EXPECT_LT((Twin(*scales, *model, 4) - 0.75 * Twin(*rank_one, *model, 4)).abs().max().item<double>(), 1e-13);
  ExpectCode("INPUT_INVALID", "different models", [&] {
    DeltaDifference(to, {TinyModel(Dtype::kFloat64), {}});
  });
}

// ---- truncate

// A low-rank part of these singular values.
DeltaPart WithSpectrum(const Model& model, int64_t matrix, const std::vector<double>& sigma, double scale) {
  const MatrixInfo& info = model.tensors()[matrix];
  const int64_t r = static_cast<int64_t>(sigma.size());
  const at::Tensor u = std::get<0>(at::linalg_qr(Draw({info.out, r}, 1)));
  const at::Tensor v = std::get<0>(at::linalg_qr(Draw({info.in, r}, 2)));
  return DeltaPart::LowRank(matrix, v.t().contiguous().to(model.activation()),
                            (u * at::tensor(sigma, at::kDouble)).to(model.activation()), scale);
}

int64_t RankAfter(const Model& model, const DeltaPart& part, int64_t rank, double energy) {
  return TruncateDelta(model, *DeltaOf(model, {part}), rank, energy)->parts.at(0).rank();
}

TEST(TruncateDelta, IsTheBestApproximation) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  for (const DeltaKind kind : {DeltaKind::kLowRank, DeltaKind::kDense}) {
    const DeltaPart part = RandomPart(*model, kind, 4, 7, 3, -0.5);
    const at::Tensor whole = Twin(part, model->tensors()[4]);
    const auto [u, sigma, v] = at::linalg_svd(whole, false);
    for (const int64_t rank : {1, 3, 6}) {
      const DeltaPtr truncated = TruncateDelta(*model, *DeltaOf(*model, {part}), rank, 0);
      ASSERT_EQ(truncated->parts.size(), 1u);
      EXPECT_EQ(truncated->parts[0].kind, DeltaKind::kLowRank);
      EXPECT_EQ(truncated->parts[0].rank(), rank);
      const at::Tensor best = at::mm(u.narrow(1, 0, rank) * sigma.narrow(0, 0, rank), v.narrow(0, 0, rank));
      const at::Tensor mine = Twin(*truncated, *model, 4);
      EXPECT_LT((mine - best).abs().max().item<double>(), 1e-12);
      const double left_out = sigma.narrow(0, rank, sigma.numel() - rank).norm().item<double>();
      EXPECT_NEAR((whole - mine).norm().item<double>(), left_out, 1e-12);
    }
  }
}

TEST(TruncateDelta, ToTheFullRankChangesNothing) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  for (const DeltaKind kind : {DeltaKind::kLowRank, DeltaKind::kDense}) {
    for (const int64_t matrix : {0, 1, 4, 6}) {
      const DeltaPtr delta = DeltaOf(*model, {RandomPart(*model, kind, matrix, 5, 3, 2)});
      for (const auto& [rank, energy] : {std::pair<int64_t, double>{0, 0}, {0, 1}, {12, 0}, {100, 1}}) {
        const DeltaPtr same = TruncateDelta(*model, *delta, rank, energy);
        EXPECT_LT((Twin(*same, *model, matrix) - Twin(*delta, *model, matrix)).abs().max().item<double>(),
                  1e-12);
      }
    }
  }
}

TEST(TruncateDelta, KeepsTheEnergyAskedFor) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  // Squares 16, 4, 4, 1 of 25: parts 0.64, 0.80, 0.96, 1.
  const DeltaPart part = WithSpectrum(*model, 0, {4, 2, 2, 1}, -0.3);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.1), 1);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.63), 1);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.65), 2);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.81), 3);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.95), 3);
  EXPECT_EQ(RankAfter(*model, part, 0, 0.97), 4);
  EXPECT_EQ(RankAfter(*model, part, 0, 1), 4);
  EXPECT_EQ(RankAfter(*model, part, 2, 0.97), 2);
  EXPECT_EQ(RankAfter(*model, part, 3, 0.65), 2);
  EXPECT_EQ(RankAfter(*model, part, 0, 0), 4);
}

TEST(TruncateDelta, RanksThatHoldNothingGo) {
  const c10::InferenceMode inference;
  for (int t = 0; t < 2; ++t) {
    const auto model = TinyModel(kTypes[t]);
    const DeltaPtr a = DeltaOf(*model, {RandomPart(*model, DeltaKind::kLowRank, 4, 3, 1, 0.5)});
    const DeltaPtr twice = AddDeltas(*model, {{a, 1}, {a, 1}}), back = TruncateDelta(*model, *twice, 0, 1);
    EXPECT_EQ(twice->parts[0].rank(), 6);
    EXPECT_EQ(back->parts[0].rank(), 3);
    EXPECT_LT(Difference(*model, *back, *twice), kTolerance[t]);
    DeltaPart zero = RandomPart(*model, DeltaKind::kLowRank, 4, 3, 1, 0.5);
    zero.b = at::zeros_like(zero.b);
    EXPECT_EQ(RankAfter(*model, zero, 2, 0.9), 1);
  }
}

TEST(TruncateDelta, OtherPartsAreKept) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  const DeltaPtr mixed = MixedDelta(*model, 1), truncated = TruncateDelta(*model, *mixed, 0, 1);
  EXPECT_LT(Difference(*model, *truncated, *mixed), 1e-13);
  // Low-rank and dense of matrix 1 are one now; the dense gain stays what it is.
  ASSERT_EQ(truncated->parts.size(), mixed->parts.size() - 1);
  EXPECT_TRUE(SameBits(truncated->parts[1], mixed->parts[1]));
  EXPECT_TRUE(SameBits(truncated->parts[2], mixed->parts[3]));
  EXPECT_EQ(truncated->parts[5].kind, DeltaKind::kDense);
  ExpectCode("OPTION_INVALID", "rank is -1", [&] { TruncateDelta(*model, *mixed, -1, 1); });
  for (const double energy : {-0.1, 1.1, static_cast<double>(NAN)}) {
    ExpectCode("OPTION_INVALID", "energy", [&] { TruncateDelta(*model, *mixed, 1, energy); });
  }
}

// ---- sparsify

TEST(SparsifyDelta, KeepsTheLargestOfTheWholeChange) {
  const c10::InferenceMode inference;
  for (int t = 0; t < 2; ++t) {
    const auto model = TinyModel(kTypes[t]);
    const DeltaPtr mixed = MixedDelta(*model, 1);
    for (const double density : {0.01, 0.07, 0.5, 1.0}) {
      const DeltaPtr sparse = SparsifyDelta(*model, *mixed, density);
      for (const DeltaPart& part : sparse->parts) {
        ASSERT_EQ(part.kind, DeltaKind::kSparse);
        EXPECT_EQ(part.scale, 1);
        const at::Tensor whole = Twin(*mixed, *model, part.matrix).view({-1});
        const double* d = whole.const_data_ptr<double>();
        std::vector<int64_t> order(whole.numel());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t i, int64_t j) { return std::abs(d[i]) > std::abs(d[j]); });
        at::Tensor expected = at::zeros_like(whole);
        const int64_t k =
            static_cast<int64_t>(std::ceil(density * static_cast<double>(whole.numel()) - 1e-9));
        for (int64_t i = 0; i < k; ++i) expected.mutable_data_ptr<double>()[order[i]] = d[order[i]];
        const int64_t nonzero = expected.count_nonzero().item<int64_t>();
        EXPECT_EQ(part.values.numel(), nonzero);
        EXPECT_LT(
            (Twin(part, model->tensors()[part.matrix]).view({-1}) - expected).abs().max().item<double>(),
            kTolerance[t] * 10);
      }
      EXPECT_EQ(sparse->parts.size(), 5u);
    }
  }
}

TEST(SparsifyDelta, TiesKeepTheLowerIndexAndZerosAreLeftOut) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  at::Tensor values = at::zeros({16, 12}, at::kDouble);
  double* v = values.mutable_data_ptr<double>();
  for (const int i : {5, 17, 40, 90, 150}) v[i] = i == 40 ? -2 : i % 2 ? 1 : -1;
  const DeltaPtr delta = DeltaOf(*model, {DeltaPart::Dense(0, values, 1)});
  const auto kept = [&](int64_t k) {
    std::vector<int64_t> indices;
    const DeltaPtr sparse = SparsifyDelta(*model, *delta, static_cast<double>(k) / 192);
    const at::Tensor flat = Twin(*sparse, *model, 0).view({-1});
    for (int64_t i = 0; i < 192; ++i) {
      if (flat[i].item<double>() != 0) indices.push_back(i);
    }
    EXPECT_EQ(static_cast<int64_t>(indices.size()), sparse->parts[0].values.numel());
    return indices;
  };
  EXPECT_EQ(kept(1), (std::vector<int64_t>{40}));
  EXPECT_EQ(kept(2), (std::vector<int64_t>{5, 40}));
  EXPECT_EQ(kept(4), (std::vector<int64_t>{5, 17, 40, 90}));
  EXPECT_EQ(kept(7), (std::vector<int64_t>{5, 17, 40, 90, 150}));
  EXPECT_EQ(kept(192), (std::vector<int64_t>{5, 17, 40, 90, 150}));
  for (const double density : {0.0, -1.0, 1.5, static_cast<double>(NAN)}) {
    ExpectCode("OPTION_INVALID", "density", [&] { SparsifyDelta(*model, *delta, density); });
  }
}

// ---- statistics

TEST(DeltaStatistics, AgreesWithDenseTwins) {
  const c10::InferenceMode inference;
  for (int t = 0; t < 2; ++t) {
    const auto model = TinyModel(kTypes[t]);
    std::vector<DeltaPtr> deltas{MixedDelta(*model, 1)};
    for (const DeltaKind kind : kKinds)
      deltas.push_back(DeltaOf(*model, {RandomPart(*model, kind, 4, 12, 3, -2.5)}));
    for (const DeltaPtr& delta : deltas) {
      const std::vector<PartStatistics> all = DeltaStatistics(*model, *delta);
      ASSERT_EQ(all.size(), delta->parts.size());
      for (size_t i = 0; i < all.size(); ++i) {
        const DeltaPart& part = delta->parts[i];
        const at::Tensor d = Twin(part, model->tensors()[part.matrix]);
        const double weight = model->Weight(part.matrix).to(at::kDouble).norm().item<double>();
        const double norm = d.norm().item<double>();
        int64_t values = 0;
        for (const at::Tensor& tensor : part.trainable()) values += tensor.numel();
        EXPECT_EQ(all[i].matrix, part.matrix);
        EXPECT_EQ(all[i].kind, part.kind);
        EXPECT_EQ(all[i].values, values);
        EXPECT_NEAR(all[i].norm / norm, 1, 1e-12) << i;
        EXPECT_NEAR(all[i].largest / d.abs().max().item<double>(), 1, 1e-12) << i;
        EXPECT_NEAR(all[i].spectral / at::linalg_svdvals(d)[0].item<double>(), 1, 1e-9) << i;
        if (weight > 0) {
          EXPECT_NEAR(all[i].relative / (norm / weight), 1, 1e-12) << i;
        } else {
          EXPECT_TRUE(std::isinf(all[i].relative)) << i;
        }
      }
    }
  }
}

TEST(DeltaStatistics, ChangesOfNothing) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat32);
  DeltaPart low = RandomPart(*model, DeltaKind::kLowRank, 0, 2, 1, 1);
  low.b = at::zeros_like(low.b);
  const DeltaPart sparse = DeltaPart::Sparse(0, at::zeros({17}, at::kInt), at::empty({0}, at::kInt),
                                             at::empty({0}, at::kFloat), 1);
  const DeltaPart dense = DeltaPart::Dense(0, at::zeros({16, 12}, at::kFloat), 1);
  for (const PartStatistics& s : DeltaStatistics(*model, *DeltaOf(*model, {low, sparse, dense}))) {
    EXPECT_EQ(s.norm, 0);
    EXPECT_EQ(s.relative, 0);
    EXPECT_EQ(s.largest, 0);
    EXPECT_EQ(s.spectral, 0);
  }
  EXPECT_TRUE(DeltaStatistics(*model, Delta()).empty());
}

// Blocks of rows: a matrix larger than one of them.
TEST(DeltaStatistics, OfMatricesOfManyBlocks) {
  const c10::InferenceMode inference;
  ModelConfig config;
  config.vocab_size = 70000;
  config.hidden_size = 64;
  config.intermediate_size = 8;
  config.layers = 1;
  config.heads = config.kv_heads = 2;
  config.head_dim = 4;
  config.max_positions = 8;
  config.tied = true;
  const auto model = Model::Random(config, Dtype::kFloat32, 5, 0.3);
  const int64_t id = model->ids().embedding;
  DeltaPart low = RandomPart(*model, DeltaKind::kLowRank, id, 2, 1, 1),
            dense = RandomPart(*model, DeltaKind::kDense, id, 2, 3, 1);
  low.b[69999].fill_(40);
  dense.values[69999][63].fill_(-70);
  for (const PartStatistics& s : DeltaStatistics(*model, *DeltaOf(*model, {low, dense}))) {
    const at::Tensor d = s.kind == DeltaKind::kDense ? dense.values.to(at::kDouble)
                                                     : at::mm(low.b.to(at::kDouble), low.a.to(at::kDouble));
    EXPECT_NEAR(s.norm / d.norm().item<double>(), 1, 1e-12);
    EXPECT_NEAR(s.largest / d.abs().max().item<double>(), 1, 1e-12);
    EXPECT_NEAR(s.spectral * s.spectral / at::linalg_eigvalsh(at::mm(d.t(), d))[-1].item<double>(), 1, 1e-9);
    EXPECT_NEAR(s.relative, s.norm / model->Weight(id).to(at::kDouble).norm().item<double>(), 1e-12 * s.norm);
  }
}

}  // namespace
}  // namespace selfedit
