// Singular factors against the whole decomposition, and their cache on disk.
#include <filesystem>
#include <numeric>

#include "core/spectral_cache.h"
#include "core/svd.h"
#include "core_delta_helpers.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using delta_test::Draw;
using delta_test::ExpectCode;
using delta_test::SameBits;
using delta_test::TinyModel;
using format_test::TemporaryFolder;

// A matrix with these singular values and arbitrary vectors.
at::Tensor WithSpectrum(int64_t out, int64_t in, const std::vector<double>& sigma, uint64_t key) {
  const int64_t r = static_cast<int64_t>(sigma.size());
  const at::Tensor u = std::get<0>(at::linalg_qr(Draw({out, r}, key)));
  const at::Tensor v = std::get<0>(at::linalg_qr(Draw({in, r}, key + 1)));
  return at::mm(u * at::tensor(sigma, at::kDouble), v.t());
}

std::vector<double> Decaying(int64_t count, double ratio) {
  std::vector<double> sigma(count, 3.0);
  for (int64_t k = 1; k < count; ++k) sigma[k] = sigma[k - 1] * ratio;
  return sigma;
}

double Largest(const at::Tensor& t) { return t.abs().max().item<double>(); }
double FromIdentity(const at::Tensor& square) {
  return Largest(square - at::eye(square.size(0), at::kDouble));
}

TEST(RandomisedSvd, LeadingTripletsOfADecayingSpectrum) {
  const c10::InferenceMode inference;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{150, 110}, {110, 150}}) {
    const at::Tensor w = WithSpectrum(out, in, Decaying(110, 0.8), 3);
    const SpectralFactors f = RandomisedSvd(w, 20, 7);
    const auto [u, sigma, v] = at::linalg_svd(w, false);
    EXPECT_LT(Largest(f.sigma / sigma.narrow(0, 0, 20) - 1), 1e-6);
    EXPECT_LT(FromIdentity(at::mm(f.u.t(), f.u)), 1e-12);
    EXPECT_LT(FromIdentity(at::mm(f.v, f.v.t())), 1e-12);
    // The vectors too, up to their common sign.
    const at::Tensor same = (f.u * u.narrow(1, 0, 20)).sum(0) * (f.v * v.narrow(0, 0, 20)).sum(1);
    EXPECT_LT(Largest(same - 1), 1e-6);
    const at::Tensor best = at::mm(u.narrow(1, 0, 20) * sigma.narrow(0, 0, 20), v.narrow(0, 0, 20));
    EXPECT_LT(Largest(at::mm(f.u * f.sigma, f.v) - best), 1e-6);
  }
}

// No gap tells the leading vectors of a flat spectrum apart: the values must still be those of a subspace
// nearly as good.
TEST(RandomisedSvd, FlatSpectra) {
  const c10::InferenceMode inference;
  const at::Tensor noise = Draw({160, 120}, 5);
  const at::Tensor exact = at::linalg_svdvals(noise);
  const SpectralFactors f = RandomisedSvd(noise, 16, 1);
  for (int64_t k = 0; k < 16; ++k) {
    const double ratio = f.sigma[k].item<double>() / exact[k].item<double>();
    EXPECT_LE(ratio, 1 + 1e-12) << k;
    EXPECT_GE(ratio, 0.95) << k;
  }
  EXPECT_LT(FromIdentity(at::mm(f.u.t(), f.u)), 1e-12);
  const at::Tensor flat = WithSpectrum(160, 120, std::vector<double>(120, 2.0), 9);
  EXPECT_LT(Largest(RandomisedSvd(flat, 16, 1).sigma - 2), 1e-12);
}

TEST(RandomisedSvd, WholeDecompositionsAndOtherTypes) {
  const c10::InferenceMode inference;
  const at::Tensor w = Draw({12, 20}, 3);
  const SpectralFactors whole = RandomisedSvd(w, 12, 1);
  EXPECT_LT(Largest(at::mm(whole.u * whole.sigma, whole.v) - w), 1e-13);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const SpectralFactors f = RandomisedSvd(w.to(type), 3, 1);
    EXPECT_EQ(f.u.scalar_type(), at::kFloat);
    // Of the rounded weight, rounded once.
    const SpectralFactors wide = RandomisedSvd(w.to(type).to(at::kDouble), 3, 1);
    EXPECT_TRUE(SameBits(f.u, wide.u.to(at::kFloat)) && SameBits(f.sigma, wide.sigma.to(at::kFloat)) &&
                SameBits(f.v, wide.v.to(at::kFloat)));
  }
  const SpectralFactors zero = RandomisedSvd(at::zeros({80, 90}, at::kDouble), 4, 1);
  EXPECT_EQ(Largest(zero.sigma), 0);
  EXPECT_TRUE(at::isfinite(zero.u).all().item<bool>() && at::isfinite(zero.v).all().item<bool>());
}

TEST(RandomisedSvd, SignsAndKeys) {
  const c10::InferenceMode inference;
  const at::Tensor w = WithSpectrum(150, 110, Decaying(110, 0.7), 3);
  const SpectralFactors f = RandomisedSvd(w, 10, 7), again = RandomisedSvd(w, 10, 7),
                        other = RandomisedSvd(w, 10, 8);
  EXPECT_TRUE(SameBits(f.u, again.u) && SameBits(f.sigma, again.sigma) && SameBits(f.v, again.v));
  EXPECT_FALSE(SameBits(f.u, other.u));
  EXPECT_LT(Largest(f.u - other.u), 1e-9) << "the signs differ";
  EXPECT_LT(Largest(f.v - other.v), 1e-9);
  for (int64_t k = 0; k < 10; ++k) {
    const at::Tensor column = f.u.select(1, k);
    EXPECT_GT(column[column.abs().argmax().item<int64_t>()].item<double>(), 0) << k;
  }
}

TEST(RandomisedSvd, RanksThatAreNotThere) {
  const c10::InferenceMode inference;
  const at::Tensor w = Draw({12, 20}, 3);
  for (const int64_t rank : {-1, 0, 13})
    ExpectCode("DELTA_SHAPE", "1 to 12", [&] { RandomisedSvd(w, rank, 1); });
}

TEST(ProductSvd, OfThinFactors) {
  const c10::InferenceMode inference;
  for (const auto& [out, r, in] :
       {std::array<int64_t, 3>{40, 5, 30}, {4, 9, 30}, {30, 9, 4}, {3, 8, 5}, {1, 2, 7}}) {
    const at::Tensor b = Draw({out, r}, 1), a = Draw({r, in}, 2), whole = at::mm(b, a);
    const SpectralFactors f = ProductSvd(b, a);
    EXPECT_EQ(f.sigma.numel(), std::min({out, r, in}));
    EXPECT_LT(Largest(at::mm(f.u * f.sigma, f.v) - whole), 1e-13 * Largest(whole) + 1e-14);
    EXPECT_LT(Largest(f.sigma - at::linalg_svdvals(whole).narrow(0, 0, f.sigma.numel())), 1e-13);
  }
}

double LargestOf(const at::Tensor& w) {
  return LargestSingularValue(
      w.size(0), w.size(1), [&](const at::Tensor& v) { return at::mv(w, v); },
      [&](const at::Tensor& u) { return at::mv(w.t(), u); });
}

TEST(LargestSingularValue, AgreesWithTheWholeDecomposition) {
  const c10::InferenceMode inference;
  std::vector<at::Tensor> matrices{Draw({1, 1}, 1),
                                   Draw({1, 40}, 2),
                                   Draw({40, 1}, 3),
                                   Draw({70, 50}, 4),
                                   Draw({50, 70}, 5),
                                   Draw({500, 450}, 6),
                                   WithSpectrum(90, 80, {5, 1e-3}, 7),
                                   WithSpectrum(90, 80, std::vector<double>(80, 2.0), 8),
                                   WithSpectrum(90, 80, {1 + 1e-9, 1, 1 - 1e-9, 0.5}, 9),
                                   WithSpectrum(90, 80, {1e-100}, 10),
                                   WithSpectrum(90, 80, Decaying(80, 0.5), 11)};
  for (size_t i = 0; i < matrices.size(); ++i) {
    const double exact = at::linalg_svdvals(matrices[i])[0].item<double>();
    EXPECT_NEAR(LargestOf(matrices[i]) / exact, 1, 1e-9) << i;
  }
  EXPECT_EQ(LargestOf(at::zeros({30, 20}, at::kDouble)), 0);
}

// ---- cache

TEST(SpectralCache, WritesOnceAndReadsTheSameBits) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
    const auto model = TinyModel(dtype);
    const std::string below = folder / (dtype == Dtype::kFloat32 ? "narrow/deep" : "wide");
    const SpectralFactors none = LoadOrMakeFactors(*model, 0, 3, "");
    const SpectralFactors made = LoadOrMakeFactors(*model, 0, 3, below),
                          read = LoadOrMakeFactors(*model, 0, 3, below);
    for (const SpectralFactors& f : {made, read}) {
      EXPECT_TRUE(SameBits(f.u, none.u) && SameBits(f.sigma, none.sigma) && SameBits(f.v, none.v));
      EXPECT_EQ(f.u.scalar_type(), model->activation());
    }
    LoadOrMakeFactors(*model, 0, 4, below);
    LoadOrMakeFactors(*model, 1, 3, below);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(below), {}), 3);
  }
}

// What is read comes from the file: one with other factors and a right checksum is believed.
TEST(SpectralCache, TheFileIsRead) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  LoadOrMakeFactors(*model, 0, 3, folder / "c");
  const std::string path = std::filesystem::directory_iterator(folder / "c")->path();
  const auto before = std::filesystem::last_write_time(path);
  LoadOrMakeFactors(*model, 0, 3, folder / "c");
  EXPECT_EQ(std::filesystem::last_write_time(path), before);
}

TEST(SpectralCache, DamagedAndForeignFilesAreReplaced) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const SpectralFactors made = LoadOrMakeFactors(*model, 0, 3, folder / "c");
  const std::string path = std::filesystem::directory_iterator(folder / "c")->path();
  const std::string right = format_test::ReadFile(path);
  LoadOrMakeFactors(*model, 1, 3, folder / "other");
  const std::string foreign =
      format_test::ReadFile(std::filesystem::directory_iterator(folder / "other")->path());
  std::string flipped = right;
  flipped.back() = static_cast<char>(flipped.back() ^ 0x10);
  const std::vector<std::string> bad{"", "no tensors", right.substr(0, right.size() / 2), foreign, flipped};
  for (size_t i = 0; i < bad.size(); ++i) {
    format_test::WriteFile(path, bad[i]);
    const SpectralFactors f = LoadOrMakeFactors(*model, 0, 3, folder / "c");
    EXPECT_TRUE(SameBits(f.u, made.u) && SameBits(f.sigma, made.sigma) && SameBits(f.v, made.v)) << i;
    EXPECT_EQ(format_test::ReadFile(path), right) << i;
  }
}

TEST(SpectralCache, AFolderThatCannotBeWrittenCostsNothingButTime) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  format_test::WriteFile(folder / "file", "not a folder");
  const SpectralFactors f = LoadOrMakeFactors(*model, 0, 3, folder / "file");
  EXPECT_TRUE(SameBits(f.u, LoadOrMakeFactors(*model, 0, 3, "").u));
  ExpectCode("DELTA_SHAPE", "1 to 12", [&] { LoadOrMakeFactors(*model, 0, 13, folder / "c"); });
}

}  // namespace
}  // namespace selfedit
