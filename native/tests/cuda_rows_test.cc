// Norms, rotation, gating, sums and embedding against double, and finite differences.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaRows : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaRows);

struct NormCase {
  int64_t n, c;
};
constexpr NormCase kNorms[] = {{1, 1}, {3, 40}, {17, 576}, {5, 333}, {2, 4096}};
constexpr double kEps = 1e-5;

// Row i of y = x rstd (w + gain), and its weight on dy.
double NormOf(const std::vector<double>& x, int64_t c, const std::vector<double>& weight,
              const std::vector<double>& dy) {
  double squares = 0, sum = 0;
  for (int64_t j = 0; j < c; ++j) squares += x[j] * x[j];
  for (int64_t j = 0; j < c; ++j) sum += dy[j] * x[j] * weight[j] / std::sqrt(squares / c + kEps);
  return sum;
}
std::vector<double> RowOf(const std::vector<double>& x, int64_t i, int64_t c) {
  return {x.begin() + i * c, x.begin() + (i + 1) * c};
}

TEST_P(CudaRows, RmsNormAndItsGradients) {
  const Type type = GetParam();
  for (const auto& [n, c] : kNorms) {
    for (const bool extras : {false, true}) {  // a residual, gains, accumulation
      SCOPED_TRACE("c " + std::to_string(c));
      const std::vector<double> start = Rounded(type, Normal(n * c, 1)), w = Rounded(type, Normal(c, 2));
      const std::vector<double> residual = Rounded(type, Normal(n * c, 3)),
                                dy = Rounded(type, Normal(n * c, 4));
      const std::vector<double> dx_before = Rounded(type, Normal(n * c, 5));
      // Slots 0 (with a gain), 1 (without), 2 (empty); the last row belongs to none.
      const int32_t middle = static_cast<int32_t>(n / 2), last = static_cast<int32_t>(n - (n > 2));
      const std::vector<int32_t> offsets = {0, middle, last, last};
      const std::vector<float> gain = Floats(Normal(c, 6));
      const Array<int32_t> device_offsets(offsets);
      const Array<float> device_gain(gain), dgain(c, 0.5f);
      const Array<const float*> gains({device_gain.data(), nullptr, device_gain.data()});
      const Array<float*> dgains({dgain.data(), nullptr, nullptr});
      const Segments segments{device_offsets.data(), 3, n};
      const NormGain with = extras ? NormGain{gains.data(), segments} : NormGain{};

      const Tensor x(type, start), added(type, residual), weight(type, w),
          y(type, std::vector<double>(n * c)), dy_in(type, dy), dx(type, dx_before);
      const Array<float> rstd(n, -9.0f);
      RmsNormForward(type, x.data(), extras ? added.data() : nullptr, weight.data(), with, n, c, kEps,
                     y.data(), rstd.data(), nullptr);
      std::vector<double> sum = start;
      if (extras) {
        for (int64_t i = 0; i < n * c; ++i) sum[i] = host::Round(type, start[i] + residual[i]);
      }
      EXPECT_EQ(x.Read(), sum);
      RmsNormBackward(type, x.data(), weight.data(), with, rstd.data(), dy_in.data(), n, c, extras, dx.data(),
                      nullptr);
      RmsNormBackwardGain(type, segments, 1, x.data(), rstd.data(), dy_in.data(), c, dgains.data(), extras,
                          nullptr);

      std::vector<double> expected(n * c), expected_rstd(n), expected_gain(c, extras ? 0.5 : 0);
      const std::vector<double> found = dx.Read();
      for (int64_t i = 0; i < n; ++i) {
        std::vector<double> row = RowOf(sum, i, c), effective = w, one(c, 0);
        if (extras && i < middle) {
          for (int64_t j = 0; j < c; ++j) effective[j] += gain[j];
        }
        double squares = 0;
        for (double value : row) squares += value * value;
        expected_rstd[i] = 1 / std::sqrt(squares / c + kEps);
        for (int64_t j = 0; j < c; ++j) {
          expected[i * c + j] = row[j] * expected_rstd[i] * effective[j];
          if (i < middle) expected_gain[j] += dy[i * c + j] * row[j] * expected_rstd[i];
        }
        const std::vector<double> of = RowOf(dy, i, c);
        for (const int64_t j : {int64_t{0}, c / 3, c - 1}) {
          const double slope = Numeric([&](const auto& v) { return NormOf(v, c, effective, of); }, row, j);
          const double whole = slope + (extras ? dx_before[i * c + j] : 0);
          EXPECT_NEAR(found[i * c + j], whole, Tolerance(type) * 4 + 1e-6) << "row " << i;
        }
      }
      EXPECT_LT(Difference(y.Read(), expected), Tolerance(type));
      EXPECT_LT(Difference(Wide(rstd.Read()), expected_rstd), kFloatTolerance);
      EXPECT_LT(Difference(Wide(dgain.Read()), expected_gain), kFloatTolerance);
    }
  }
}

// Heads of q or k: rows of a segment are several rows of the norm. dx takes the place of dy.
TEST_P(CudaRows, RmsNormOfHeads) {
  const Type type = GetParam();
  for (const auto& [tokens, heads, d] : {std::tuple{7, 3, 16}, {5, 1, 40}, {4, 4, 128}}) {
    const int64_t n = tokens * heads, last = tokens - 1;  // the last token belongs to no segment
    const std::vector<double> start = Rounded(type, Normal(n * d, 1)), w = Rounded(type, Normal(d, 2)),
                              slopes = Rounded(type, Normal(n * d, 4));
    const std::vector<float> gain = Floats(Normal(d, 6));
    const Array<int32_t> offsets({0, 2, static_cast<int32_t>(last)});
    const Array<float> device_gain(gain), dgain(d, 0.5f), other(d, 0.5f);
    const Array<const float*> gains({nullptr, device_gain.data()});
    const Array<float*> dgains({dgain.data(), other.data()});
    const Segments segments{offsets.data(), 2, tokens};
    const NormGain with{gains.data(), segments, heads};
    const Tensor x(type, start), weight(type, w), y(type, std::vector<double>(n * d)), dy(type, slopes);
    const Array<float> rstd(n, -9.0f);
    RmsNormForward(type, x.data(), nullptr, weight.data(), with, n, d, kEps, y.data(), rstd.data(), nullptr);
    RmsNormBackwardGain(type, segments, heads, x.data(), rstd.data(), dy.data(), d, dgains.data(), false,
                        nullptr);
    RmsNormBackward(type, x.data(), weight.data(), with, rstd.data(), dy.data(), n, d, false, dy.data(),
                    nullptr);
    std::vector<double> expected(n * d), of_first(d, 0), of_second(d, 0);
    const std::vector<double> found = dy.Read();
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = i / heads;
      const std::vector<double> row = RowOf(start, i, d), of = RowOf(slopes, i, d);
      std::vector<double> effective = w;
      for (int64_t j = 0; j < d && t >= 2 && t < last; ++j) effective[j] += gain[j];
      double squares = 0;
      for (double value : row) squares += value * value;
      const double scale = 1 / std::sqrt(squares / d + kEps);
      for (int64_t j = 0; j < d; ++j) {
        expected[i * d + j] = row[j] * scale * effective[j];
        if (t < last) (t < 2 ? of_first : of_second)[j] += of[j] * row[j] * scale;
      }
      for (const int64_t j : {int64_t{0}, int64_t{d} / 3, int64_t{d} - 1}) {
        const double slope = Numeric([&](const auto& v) { return NormOf(v, d, effective, of); }, row, j);
        EXPECT_NEAR(found[i * d + j], slope, Tolerance(type) * 4 + 1e-6) << "row " << i;
      }
    }
    EXPECT_LT(Difference(y.Read(), expected), Tolerance(type));
    EXPECT_LT(Difference(Wide(dgain.Read()), of_first), kFloatTolerance);
    EXPECT_LT(Difference(Wide(other.Read()), of_second), kFloatTolerance);
  }
}

TEST_P(CudaRows, RopeAndItsInverse) {
  const Type type = GetParam();
  for (const int64_t d : {16, 64, 128}) {
    const int64_t n = 5, heads = 3, stride = heads * d + 24;  // heads of a wider buffer
    const std::vector<int32_t> positions = {0, 1, 2, 0, 19};
    const std::vector<double> start = Rounded(type, Normal(n * stride, 1));
    std::vector<double> expected = start;
    std::vector<float> cos, sin;
    for (int64_t p = 0; p < 20; ++p) {
      for (int64_t j = 0; j < d / 2; ++j) {
        const double angle = p * std::pow(10000.0, -2.0 * j / d);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t j = 0; j < d / 2; ++j) {
          const double angle = positions[i] * std::pow(10000.0, -2.0 * j / d);
          double& a = expected[i * stride + h * d + j];
          double& b = expected[i * stride + h * d + j + d / 2];
          const double was = a;
          a = was * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + was * std::sin(angle);
        }
      }
    }
    const Tensor x(type, start);
    const Array<int32_t> position(positions);
    const Array<float> cosines(cos), sines(sin);
    Rope(type, x.data(), stride, position.data(), cosines.data(), sines.data(), n, heads, d, 1, nullptr);
    EXPECT_LT(Difference(x.Read(), expected), Tolerance(type));
    Rope(type, x.data(), stride, position.data(), cosines.data(), sines.data(), n, heads, d, -1, nullptr);
    EXPECT_LT(Difference(x.Read(), start), Tolerance(type));
  }
}

double Silu(double gate) { return gate / (1 + std::exp(-gate)); }
double GeluTanh(double gate) {
  return gate / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)));
}
struct Gating {
  double (*activation)(double);
  decltype(&SwiGluForward) forward;
  decltype(&SwiGluBackward) backward;
};
constexpr Gating kGatings[] = {{Silu, SwiGluForward, SwiGluBackward},
                               {GeluTanh, GeGluForward, GeGluBackward}};

TEST_P(CudaRows, GatingAndItsGradients) {
  const Type type = GetParam();
  for (const Gating& gating : kGatings) {
    const auto gated = [&](double gate, double up) { return gating.activation(gate) * up; };
    for (const auto& [n, f, merged] :
         {std::tuple{3, 40, false}, {7, 33, false}, {5, 64, true}, {1, 1, true}}) {
      const int64_t stride = merged ? 2 * f : f, rows = n;
      const std::vector<double> gate = Rounded(type, Normal(rows * stride, 1, 3));
      const std::vector<double> up = merged ? gate : Rounded(type, Normal(rows * stride, 2));
      const std::vector<double> dy = Rounded(type, Normal(rows * f, 3));
      const Tensor gates(type, gate), ups(type, up), y(type, std::vector<double>(rows * f)), dys(type, dy);
      const void* up_data = merged ? gates.At(f) : ups.data();
      void* dup = merged ? const_cast<void*>(up_data) : ups.data();
      gating.forward(type, gates.data(), up_data, stride, n, f, y.data(), nullptr);
      gating.backward(type, gates.data(), up_data, stride, dys.data(), n, f, gates.data(), dup, nullptr);
      const std::vector<double> found = y.Read(), dgate = gates.Read(), dups = merged ? dgate : ups.Read();
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < f; ++j) {
          const int64_t at = i * stride + j, at_up = at + (merged ? f : 0), to = i * f + j;
          const double g = gate[at], u = up[at_up], near = Tolerance(type);
          EXPECT_NEAR(found[to], gated(g, u), near * (1 + std::abs(gated(g, u))));
          const double of_gate = dy[to] * Numeric([&](const auto& v) { return gated(v[0], u); }, {g}, 0);
          const double of_up = dy[to] * Numeric([&](const auto& v) { return gated(g, v[0]); }, {u}, 0);
          EXPECT_NEAR(dgate[at], of_gate, near * (1 + std::abs(of_gate)));
          EXPECT_NEAR(dups[at_up], of_up, near * (1 + std::abs(of_up)));
        }
      }
    }
  }
}

TEST_P(CudaRows, BiasResidualScaleAndEmbedding) {
  const Type type = GetParam();
  for (const auto& [n, c] : kNorms) {
    const std::vector<double> x = Rounded(type, Normal(n * c, 1)), y = Rounded(type, Normal(n * c, 2));
    const std::vector<double> bias = Rounded(type, Normal(c, 3)), table = Rounded(type, Normal(11 * c, 4));
    std::vector<double> with_bias = x, with_y = x, x_scaled = x, embedded(n * c, 0);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i) {
      tokens.push_back(i == 1 ? 11 : i == 2 ? -1 : static_cast<int32_t>(i * 7 % 11));  // two unknown ones
      for (int64_t j = 0; j < c; ++j) {
        with_bias[i * c + j] += bias[j];
        with_y[i * c + j] += y[i * c + j];
        if (i != 1 && i != 2) embedded[i * c + j] = table[tokens[i] * c + j];
      }
    }
    const Tensor a(type, x), b(type, x), biases(type, bias), ys(type, y),
        rows(type, std::vector<double>(n * c, 5)), embeddings(type, table);
    const Array<int32_t> token(tokens);
    const Tensor scaled(type, x);
    Scale(type, scaled.data(), 3.5f, n * c, nullptr);
    for (double& value : x_scaled) value *= 3.5;
    EXPECT_EQ(scaled.Read(), Rounded(type, x_scaled));
    BiasAdd(type, a.data(), biases.data(), n, c, nullptr);
    ResidualAdd(type, b.data(), ys.data(), n * c, nullptr);
    Embed(type, embeddings.data(), token.data(), n, c, 11, rows.data(), nullptr);
    EXPECT_EQ(a.Read(), Rounded(type, with_bias));
    EXPECT_EQ(b.Read(), Rounded(type, with_y));
    EXPECT_EQ(rows.Read(), embedded);
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
