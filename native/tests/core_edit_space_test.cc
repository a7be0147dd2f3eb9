// Vectors as weight changes, against definitions written out here, and their pull-back against central finite
// differences through the whole model, in float64, for every space; the divergence loss likewise.
#include <numeric>

#include "core/edit_space.h"
#include "core/score.h"
#include "core_delta_helpers.h"
#include "core_helpers.h"

namespace selfedit {
namespace {

using delta_test::ExpectCode;

struct Setting {
  std::shared_ptr<Model> model = Model::Random(TinyConfig(), Dtype::kFloat64, 7, 0.5);
  DeltaPtr parent, adapted;
  Ragged documents = TinyRows({9, 5, 12}, 40), rows = TinyRows({8, 11}, 41);
  std::vector<SpaceChoice> choices;
  std::unique_ptr<EditSpace> space;
  at::Tensor basis;
  DeltaPtr material;
  std::vector<double> vector;

  // One matrix of each module and two gains, so that every space meets several shapes.
  explicit Setting(std::vector<SpaceChoice> given = {{0, SpaceKind::kSpectral, 5},
                                                     {1, SpaceKind::kGradient, 1},
                                                     {4, SpaceKind::kLowRank, 4},
                                                     {8, SpaceKind::kModulated, 1},
                                                     {9, SpaceKind::kSparse, 7},
                                                     {12, SpaceKind::kModulated, 1},
                                                     {13, SpaceKind::kGradient, 7},
                                                     {16, SpaceKind::kModulated, 1},
                                                     {20, SpaceKind::kGradient, 5}})
      : choices(std::move(given)) {
    auto below = std::make_shared<Delta>();
    below->parts = {TinyPart(*model, 2, DeltaKind::kLowRank, 5), TinyPart(*model, 13, DeltaKind::kSparse, 6)};
    parent = below;
    auto inner = std::make_shared<Delta>();
    inner->parts = {
        TinyPart(*model, 8, DeltaKind::kLowRank, 10), TinyPart(*model, 12, DeltaKind::kSparse, 12),
        TinyPart(*model, 12, DeltaKind::kSpectral, 14), TinyPart(*model, 16, DeltaKind::kDense, 16)};
    adapted = inner;
    space = std::make_unique<EditSpace>(*model, choices);
    basis = space->FirstBasis(*model, 3);
    MaterialSpec spec;
    spec.rate = 0.3;
    material = ContextMaterial(*model, *space, {{parent, 1.0}}, documents, adapted, spec, JobControl());
    const std::vector<double> u = Uniform(17, space->size());
    for (const double x : u) vector.push_back(0.8 * (x - 0.5));
  }
  DeltaPtr Compose(const std::vector<double>& z, const at::Tensor& from) const {
    return space->Compose(*model, *material, z.data(), from);
  }
  at::Tensor Change(const std::vector<double>& z, int64_t matrix) const {
    return delta_test::Twin(*Compose(z, basis), *model, matrix);
  }
  GradientSpec Loss(const DeltaPtr& edit) const {
    GradientSpec spec;
    spec.model = model;
    spec.rows = rows;
    spec.forks = {{{parent, 1.0}, {edit, 1.0}}, {{parent, 1.0}}};
    spec.row_fork = {0, 0};
    spec.level = {1, -1};
    const std::vector<double> u = Uniform(23, 2 * static_cast<int64_t>(rows.tokens.size()));
    for (size_t t = 0; t < rows.tokens.size(); ++t) {
      spec.cotangents.push_back(u[2 * t] - 0.6);
      spec.divergence_cotangents.push_back(u[2 * t + 1] * 0.7);
    }
    spec.row_reference = {-1, 1};
    return spec;
  }
  // Log-likelihoods by Score and divergences by Divergence: other code than the gradient's own.
  double Value(const DeltaPtr& edit) const {
    const GradientSpec loss = Loss(edit);
    ScoreSpec score;
    score.model = model;
    score.rows = rows;
    score.forks = loss.forks;
    score.row_fork = {0, 0};
    DivergenceSpec divergence;
    divergence.model = model;
    divergence.rows = rows;
    divergence.forks = loss.forks;
    divergence.row_fork = {0, 0};
    divergence.row_reference = {1, 1};
    const std::vector<double> logprobs = Score(score, JobControl()),
                              kl = Divergence(divergence, JobControl());
    double sum = 0;
    for (size_t t = 0; t < logprobs.size(); ++t) {
      if (!std::isnan(logprobs[t])) sum += loss.cotangents[t] * logprobs[t];
      if (t >= static_cast<size_t>(rows.offsets[1])) sum += loss.divergence_cotangents[t] * kl[t];
    }
    return sum;
  }
};

at::Tensor Eye(int64_t n) { return at::eye(n, at::kDouble); }

TEST(EditSpace, AtZeroNothingChangesButForGradientAndModulated) {
  const c10::InferenceMode inference;
  const Setting s;
  const std::vector<double> zero(s.space->size(), 0.0);
  std::vector<int32_t> matrices{1, 13, 20};
  const auto gradients = WeightGradients(*s.model, {{s.parent, 1.0}}, s.documents, {}, matrices,
                                         Selection::kGradient, JobControl());
  for (const int64_t matrix : {0, 4, 9}) EXPECT_EQ(s.Change(zero, matrix).abs().max().item<double>(), 0);
  for (size_t i = 0; i < matrices.size(); ++i) {
    // One step of gradient descent on the mean of the documents' mean losses.
    const at::Tensor expected = gradients[i] * (-0.3 / 3);
    EXPECT_LT((s.Change(zero, matrices[i]) - expected).abs().max().item<double>(), 1e-15) << matrices[i];
    EXPECT_GT(expected.abs().max().item<double>(), 1e-4);
  }
  for (const int64_t matrix : {8, 12, 16}) {
    EXPECT_TRUE(at::equal(s.Change(zero, matrix), delta_test::Twin(*s.adapted, *s.model, matrix)));
  }
}

TEST(EditSpace, ChangesAreThoseOfTheDefinitions) {
  const c10::InferenceMode inference;
  const Setting s;
  const auto& blocks = s.space->blocks();
  const double* z = s.vector.data();
  const auto near = [&](int64_t matrix, const at::Tensor& expected) {
    EXPECT_LT((s.Change(s.vector, matrix) - expected).abs().max().item<double>(),
              1e-12 * expected.abs().max().item<double>())
        << matrix;
  };
  const auto weight = [&](int64_t matrix) { return s.model->Weight(matrix).to(at::kDouble); };

  {  // singular values: the effective weight's leading five are sigma (1 + z), however far they cross
    const auto [u, sigma, v] = at::linalg_svd(weight(0), false);
    at::Tensor expected = at::zeros_like(weight(0));
    for (int64_t k = 0; k < 5; ++k) expected += at::outer(u.select(1, k), v[k]) * sigma[k] * z[k];
    near(0, expected);
  }
  {  // rank-1 factors of an orthonormal basis, in units of a typical singular value
    const SpaceBlock& block = blocks[2];
    const at::Tensor a = s.basis.narrow(0, block.basis, 4 * 12).view({4, 12});
    const at::Tensor b = s.basis.narrow(0, block.basis + 4 * 12, 4 * 20).view({4, 20});
    EXPECT_LT((at::mm(a, a.t()) - Eye(4)).abs().max().item<double>(), 1e-12);
    EXPECT_LT((at::mm(b, b.t()) - Eye(4)).abs().max().item<double>(), 1e-12);
    const double unit = std::sqrt(weight(4).square().sum().item<double>() / 12);
    at::Tensor expected = at::zeros_like(weight(4));
    for (int64_t k = 0; k < 4; ++k) expected += at::outer(b[k], a[k]) * (unit * z[block.offset + k]);
    near(4, expected);
  }
  {  // the seven largest gradients in order, each along its descent, in units of a typical entry
    const SpaceBlock& block = blocks[4];
    const at::Tensor g = WeightGradients(*s.model, {{s.parent, 1.0}}, s.documents, {}, {9},
                                         Selection::kGradient, JobControl())[0]
                             .view({-1});
    const double unit = std::sqrt(weight(9).square().mean().item<double>());
    std::vector<int64_t> order(g.numel());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
      return std::abs(g[i].item<double>()) > std::abs(g[j].item<double>());
    });
    at::Tensor expected = at::zeros_like(g);
    for (int64_t j = 0; j < 7; ++j) {
      expected[order[j]] = (g[order[j]].item<double>() > 0 ? -unit : unit) * z[block.offset + j];
    }
    near(9, expected.view_as(weight(9)));
  }
  for (const size_t m : {6u, 8u}) {  // both sides of the gradient's factors under their transforms
    const SpaceBlock& block = blocks[m];
    const MatrixInfo& info = s.model->tensors()[block.matrix];
    const int64_t k = (block.size - 1) / 2;
    int64_t offset = block.basis;
    const auto rows = [&](int64_t width) {
      offset += k * width;
      return s.basis.narrow(0, offset - k * width, k * width).view({k, width});
    };
    const at::Tensor q = rows(info.in), p = rows(info.in), qo = rows(info.out), po = rows(info.out);
    at::Tensor right = Eye(info.in), left = Eye(info.out);
    for (int64_t j = 0; j < k; ++j) {
      right = right + at::outer(q[j], p[j]) * z[block.offset + 1 + j];
      left = left + at::outer(po[j], qo[j]) * z[block.offset + 1 + k + j];
    }
    const at::Tensor step = delta_test::Twin(*s.material, *s.model, block.matrix);
    near(block.matrix, at::mm(at::mm(left, step), right) * std::exp(z[block.offset]));
  }
  for (const size_t m : {3u, 5u, 7u}) {
    const int64_t matrix = blocks[m].matrix;
    near(matrix, delta_test::Twin(*s.adapted, *s.model, matrix) * (1 + z[blocks[m].offset]));
  }
}

TEST(EditSpace, PullBackAgreesWithFiniteDifferencesThroughTheModel) {
  const c10::InferenceMode inference;
  Setting s;
  // A basis that training has moved: no longer orthonormal.
  s.basis.add_(Filled({s.basis.numel()}, 91, 0.1));
  const DeltaPtr edit = s.Compose(s.vector, s.basis);
  const GradientResult result = Gradient(s.Loss(edit), JobControl());
  ASSERT_EQ(result.gradients[1], nullptr);
  std::vector<double> found(s.vector.size(), 0.0);
  const at::Tensor dbasis = at::zeros_like(s.basis);
  s.space->PullBack(*s.model, *s.material, s.vector.data(), s.basis, *result.gradients[0], found.data(),
                    dbasis);
  const auto check = [&](double gradient, const std::function<double(double)>& at, const char* what,
                         int64_t i) {
    const double expected = (at(1e-5) - at(-1e-5)) / 2e-5;
    EXPECT_NEAR(gradient, expected, 2e-7 * std::max(1.0, std::abs(expected))) << what << " " << i;
    return std::abs(expected);
  };
  double size = 0;
  for (size_t i = 0; i < s.vector.size(); ++i) {
    size += check(
        found[i],
        [&](double step) {
          std::vector<double> moved = s.vector;
          moved[i] += step;
          return s.Value(s.Compose(moved, s.basis));
        },
        "entry", static_cast<int64_t>(i));
  }
  EXPECT_GT(size, 1);
  size = 0;
  for (int64_t i = 0; i < s.basis.numel(); i += 5) {
    size += check(
        dbasis[i].item<double>(),
        [&](double step) {
          at::Tensor moved = s.basis.clone();
          moved[i] += step;
          return s.Value(s.Compose(s.vector, moved));
        },
        "basis", i);
  }
  EXPECT_GT(size, 0.1);
}

TEST(EditSpace, TheGradientReportsLogProbsAndDivergences) {
  const c10::InferenceMode inference;
  const Setting s;
  const GradientSpec loss = s.Loss(s.Compose(s.vector, s.basis));
  GradientSpec small = loss;
  small.max_batch_tokens = 1;  // a row a pass
  DivergenceSpec divergence;
  divergence.model = s.model;
  divergence.rows = s.rows;
  divergence.forks = loss.forks;
  divergence.row_fork = {0, 0};
  divergence.row_reference = {1, 1};
  const std::vector<double> kl = Divergence(divergence, JobControl());
  const GradientResult together = Gradient(loss, JobControl()), apart = Gradient(small, JobControl());
  for (size_t t = 0; t < kl.size(); ++t) {
    if (t < static_cast<size_t>(s.rows.offsets[1])) {
      EXPECT_TRUE(std::isnan(together.divergence[t]));
    } else {
      EXPECT_NEAR(together.divergence[t], kl[t], 1e-12);
      EXPECT_EQ(together.divergence[t], apart.divergence[t]);
    }
  }
}

// float32 entries of a float32 model follow the float64 ones.
TEST(EditSpace, SinglePrecisionFollowsDouble) {
  const c10::InferenceMode inference;
  Setting wide;
  const auto model = Model::Random(TinyConfig(), Dtype::kFloat32, 7, 0.5);
  auto inner = std::make_shared<Delta>();
  for (const DeltaPart& part : wide.adapted->parts) {
    DeltaPart narrow = part;
    for (at::Tensor* t : {&narrow.a, &narrow.b, &narrow.sigma, &narrow.values}) {
      if (t->defined()) *t = t->to(at::kFloat);
    }
    inner->parts.push_back(narrow);
  }
  const EditSpace space(*model, wide.choices);
  MaterialSpec spec;
  spec.rate = 0.3;
  const DeltaPtr material = ContextMaterial(*model, space, {}, wide.documents, inner, spec, JobControl());
  const DeltaPtr wide_material =
      ContextMaterial(*wide.model, *wide.space, {}, wide.documents, wide.adapted, spec, JobControl());
  const at::Tensor basis = wide.basis.to(at::kFloat);
  const DeltaPtr a = space.Compose(*model, *material, wide.vector.data(), basis);
  const DeltaPtr b = wide.space->Compose(*wide.model, *wide_material, wide.vector.data(), wide.basis);
  for (const SpaceBlock& block : space.blocks()) {
    const at::Tensor x = delta_test::Twin(*a, *model, block.matrix);
    const at::Tensor y = delta_test::Twin(*b, *wide.model, block.matrix);
    EXPECT_LT((x - y).abs().max().item<double>(), 3e-5 * y.abs().max().item<double>()) << block.matrix;
  }
}

TEST(EditSpace, FisherChoosesAnotherSupportAndKeepsTheSigns) {
  const c10::InferenceMode inference;
  const Setting s({{9, SpaceKind::kSparse, 20}});
  MaterialSpec spec;
  spec.selection = Selection::kFisher;
  const DeltaPtr fisher = ContextMaterial(*s.model, *s.space, {}, s.documents, nullptr, spec, JobControl());
  const auto support =
      ChooseSupport(*s.model, {}, s.documents, {}, {9}, 20.0 / 96, Selection::kFisher, JobControl());
  EXPECT_TRUE(at::equal(fisher->parts[0].columns, support->parts[0].columns));
  const at::Tensor g =
      WeightGradients(*s.model, {}, s.documents, {}, {9}, Selection::kGradient, JobControl())[0];
  const at::Tensor change = delta_test::Twin(*fisher, *s.model, 9);
  EXPECT_LE((g * change).max().item<double>(), 0);
}

TEST(EditSpace, RefusesWhatDoesNotFit) {
  const c10::InferenceMode inference;
  const Setting s;
  const auto space = [&](std::vector<SpaceChoice> choices) { EditSpace(*s.model, choices); };
  ExpectCode("TARGET_UNKNOWN", "no matrix", [&] { space({}); });
  ExpectCode("TARGET_UNKNOWN", "ascend", [&] { space({{3}, {3}}); });
  ExpectCode("TARGET_UNKNOWN", "below", [&] { space({{1000}}); });
  ExpectCode("OPTION_INVALID", "0 entries", [&] { space({{0, SpaceKind::kSpectral, 0}}); });
  ExpectCode("OPTION_INVALID", "13 entries", [&] { space({{0, SpaceKind::kLowRank, 13}}); });
  ExpectCode("OPTION_INVALID", "odd", [&] { space({{0, SpaceKind::kGradient, 4}}); });
  ExpectCode("OPTION_INVALID", "expected 1 to 1", [&] { space({{0, SpaceKind::kModulated, 2}}); });
  ExpectCode("TARGET_UNKNOWN", "is a vector", [&] {
    space({{s.model->ids().final_norm, SpaceKind::kSpectral, 1}});
  });
  std::vector<double> broken = s.vector;
  broken[5] = NAN;
  ExpectCode("INPUT_INVALID", "entry 5", [&] { s.Compose(broken, s.basis); });
  const Delta nothing;
  ExpectCode("DELTA_SHAPE", "spectral",
             [&] { s.space->Compose(*s.model, nothing, s.vector.data(), s.basis); });
}

TEST(EditSpace, PullBackRefusesTheGradientOfAnotherEdit) {
  const c10::InferenceMode inference;
  const std::vector<double> z(7, 0.1);
  for (const SpaceKind kind :
       {SpaceKind::kSpectral, SpaceKind::kLowRank, SpaceKind::kSparse, SpaceKind::kGradient}) {
    SCOPED_TRACE(SpaceKindName(kind));
    const Setting smaller({{9, kind, 3}}), larger({{9, kind, 7}});
    const DeltaPtr edit = smaller.space->Compose(*smaller.model, *smaller.material, z.data(), smaller.basis);
    const auto pull = [&](const Delta& gradient) {
      std::vector<double> found(7);
      larger.space->PullBack(*larger.model, *larger.material, z.data(), larger.basis, gradient, found.data(),
                             {});
    };
    ExpectCode("DELTA_SHAPE", "the gradient has", [&] { pull(*edit); });
    ExpectCode("DELTA_SHAPE", "has no", [&] { pull(Delta()); });
  }
}

}  // namespace
}  // namespace selfedit
