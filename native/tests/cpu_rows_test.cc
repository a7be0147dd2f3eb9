// RMSNorm, rotation and SwiGLU against their formulas in double.
#include <functional>

#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

template <typename T>
class CpuRows : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuRows, Types);

struct RowShape {
  int64_t n, c;
};
const std::vector<RowShape> kRowShapes = {{33, 576}, {1, 3}, {5, 7}, {3, 100}, {0, 8}, {40, 2049}};

TYPED_TEST(CpuRows, RmsNorm) {
  using T = TypeParam;
  for (const auto [n, c] : kRowShapes) {
    const auto x = Normal<T>(n * c, 1, 3), w = Normal<T>(c, 2), dy = Normal<T>(n * c, 3),
               start = Normal<T>(n * c, 4);
    const T eps = static_cast<T>(1e-2);
    std::vector<double> y, rstd, dx;
    for (int64_t i = 0; i < n; ++i) {
      double squares = 0, dot = 0;
      for (int64_t j = 0; j < c; ++j) squares += static_cast<double>(x[i * c + j]) * x[i * c + j];
      for (int64_t j = 0; j < c; ++j) dot += static_cast<double>(dy[i * c + j]) * w[j] * x[i * c + j];
      const double r = 1 / std::sqrt(squares / c + eps);
      rstd.push_back(r);
      for (int64_t j = 0; j < c; ++j) y.push_back(x[i * c + j] * r * w[j]);
      for (int64_t j = 0; j < c; ++j) {
        dx.push_back(r * (static_cast<double>(dy[i * c + j]) * w[j] - x[i * c + j] * r * r * dot / c));
      }
    }
    ForEachSimd([&, n = n, c = c] {
      std::vector<T> out(n * c), scale(n), grad(n * c), added = start;
      RmsNormForward<T>(x.data(), w.data(), n, c, eps, out.data(), scale.data());
      RmsNormBackward<T>(x.data(), w.data(), scale.data(), dy.data(), n, c, false, grad.data());
      RmsNormBackward<T>(x.data(), w.data(), scale.data(), dy.data(), n, c, true, added.data());
      EXPECT_LT(Difference(out, y), kTolerance<T>) << n << " x " << c;
      EXPECT_LT(Difference(scale, rstd), kTolerance<T>) << n << " x " << c;
      EXPECT_LT(Difference(grad, dx), kTolerance<T>) << n << " x " << c;
      auto sum = dx;
      for (int64_t i = 0; i < n * c; ++i) sum[i] += start[i];
      EXPECT_LT(Difference(added, sum), kTolerance<T>) << n << " x " << c;
      std::vector<T> without(n * c);
      RmsNormForward<T>(x.data(), w.data(), n, c, eps, without.data(), nullptr);
      EXPECT_TRUE(SameBits(without, out));
    });
  }
}

TYPED_TEST(CpuRows, Rotation) {
  using T = TypeParam;
  for (const auto& [n, heads, d] :
       {std::array<int64_t, 3>{40, 9, 64}, {3, 2, 6}, {1, 1, 2}, {300, 3, 80}, {0, 1, 4}}) {
    const int64_t positions = 50, half = d / 2;
    std::vector<T> cos, sin;
    for (int64_t i = 0; i < positions * half; ++i) {
      const double angle = (i / half) * std::pow(1e4, -2.0 * (i % half) / d);
      cos.push_back(static_cast<T>(std::cos(angle)));
      sin.push_back(static_cast<T>(std::sin(angle)));
    }
    std::vector<int32_t> position;
    for (int64_t i = 0; i < n; ++i) position.push_back(static_cast<int32_t>((i * 7) % positions));
    const auto x = Normal<T>(n * heads * d, 5);
    std::vector<double> expected(x.size());
    for (int64_t row = 0; row < n * heads; ++row) {
      for (int64_t j = 0; j < half; ++j) {
        const double c = cos[position[row / heads] * half + j], s = sin[position[row / heads] * half + j];
        const double a = x[row * d + j], b = x[row * d + j + half];
        expected[row * d + j] = a * c - b * s;
        expected[row * d + j + half] = b * c + a * s;
      }
    }
    ForEachSimd([&, n = n, heads = heads, d = d] {
      std::vector<T> y = x;
      Rope<T>(y.data(), position.data(), cos.data(), sin.data(), n, heads, d, 1);
      EXPECT_LT(Difference(y, expected), kTolerance<T>);
      Rope<T>(y.data(), position.data(), cos.data(), sin.data(), n, heads, d, -1);
      EXPECT_LT(Difference(y, Wide(x)), kTolerance<T>);
    });
  }
}

TYPED_TEST(CpuRows, SwiGlu) {
  using T = TypeParam;
  for (int64_t count : {0, 1, 15, 16, 17, 1000, 40000}) {
    auto gate = Normal<T>(count, 6, 8);
    const auto up = Normal<T>(count, 7), dy = Normal<T>(count, 8);
    const T extremes[] = {-1000, 1000, -88, 88, 0, -0.0f, 30};
    for (int64_t i = 0; i < std::min<int64_t>(count, 7); ++i) gate[i] = extremes[i];
    std::vector<double> y, dgate, dup;
    for (int64_t i = 0; i < count; ++i) {
      const double x = gate[i], s = 1 / (1 + std::exp(-x));
      y.push_back(x * s * up[i]);
      dgate.push_back(dy[i] * (up[i] * s * (1 + x * (1 - s))));
      dup.push_back(dy[i] * x * s);
    }
    ForEachSimd([&] {
      std::vector<T> out(count), da(count), db(count);
      SwiGluForward<T>(gate.data(), up.data(), count, out.data());
      SwiGluBackward<T>(gate.data(), up.data(), dy.data(), count, da.data(), db.data());
      for (int64_t i = 0; i < count; ++i) {  // element by element: large and small ones lie side by side
        const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-14;
        ASSERT_NEAR(out[i], y[i], tolerance * std::abs(y[i]) + 1e-30) << gate[i];
        ASSERT_NEAR(da[i], dgate[i], 2 * tolerance * (std::abs(gate[i] * up[i] * dy[i]) + 1)) << gate[i];
        ASSERT_NEAR(db[i], dup[i], tolerance * std::abs(dup[i]) + 1e-30) << gate[i];
      }
      std::vector<T> a = gate, b = up;  // in place
      SwiGluBackward<T>(a.data(), b.data(), dy.data(), count, a.data(), b.data());
      EXPECT_TRUE(SameBits(a, da) && SameBits(b, db));
    });
  }
}

TYPED_TEST(CpuRows, GeGlu) {
  using T = TypeParam;
  for (int64_t count : {0, 1, 15, 17, 1000, 40000}) {
    auto gate = Normal<T>(count, 6, 3);
    const auto up = Normal<T>(count, 7), dy = Normal<T>(count, 8);
    const T extremes[] = {-1000, 1000, -30, 30, 0, -0.0f, 5};
    for (int64_t i = 0; i < std::min<int64_t>(count, 7); ++i) gate[i] = extremes[i];
    std::vector<double> y, dgate, dup;
    for (int64_t i = 0; i < count; ++i) {
      const double x = gate[i], root = std::sqrt(2 / M_PI);
      const double t = std::tanh(root * (x + 0.044715 * x * x * x));
      const double gelu = 0.5 * x * (1 + t);
      const double slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
      y.push_back(gelu * up[i]);
      dgate.push_back(dy[i] * up[i] * slope);
      dup.push_back(dy[i] * gelu);
    }
    ForEachSimd([&] {
      std::vector<T> out(count), da(count), db(count);
      GeGluForward<T>(gate.data(), up.data(), count, out.data());
      GeGluBackward<T>(gate.data(), up.data(), dy.data(), count, da.data(), db.data());
      for (int64_t i = 0; i < count; ++i) {
        // In the tail 1 + tanh cancels: the twin itself has absolute, not relative, accuracy there.
        const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-14;
        const double x = std::abs(gate[i]), u = std::abs(up[i]), g = std::abs(dy[i]);
        ASSERT_NEAR(out[i], y[i], tolerance * (std::abs(y[i]) + u)) << gate[i];
        ASSERT_NEAR(da[i], dgate[i], 2 * tolerance * (x * u * g + u * g + 1e-30)) << gate[i];
        ASSERT_NEAR(db[i], dup[i], tolerance * (std::abs(dup[i]) + g)) << gate[i];
      }
      std::vector<T> a = gate, b = up;  // in place
      GeGluBackward<T>(a.data(), b.data(), dy.data(), count, a.data(), b.data());
      EXPECT_TRUE(SameBits(a, da) && SameBits(b, db));
    });
  }
}

TEST(CpuRowsDouble, BackwardsAreTheDerivatives) {
  const int64_t n = 3, c = 11;
  auto x = Normal<double>(n * c, 1), up = Normal<double>(n * c, 2);
  const auto w = Normal<double>(c, 3), dy = Normal<double>(n * c, 4);
  ForEachSimd([&] {
    std::vector<double> y(n * c), rstd(n), dx(n * c), dgate(n * c), dup(n * c);
    const auto inner = [&] {
      double sum = 0;
      for (int64_t i = 0; i < n * c; ++i) sum += y[i] * dy[i];
      return sum;
    };
    const auto norm = [&] {
      RmsNormForward<double>(x.data(), w.data(), n, c, 1e-5, y.data(), rstd.data());
      return inner();
    };
    const auto gated = [&] {
      SwiGluForward<double>(x.data(), up.data(), n * c, y.data());
      return inner();
    };
    const auto check = [&](std::vector<double>& at, const std::function<double()>& loss,
                           const std::vector<double>& gradient) {
      for (size_t i = 0; i < at.size(); ++i) {
        const double before = at[i], h = 1e-5;
        at[i] = before + h;
        const double above = loss();
        at[i] = before - h;
        const double below = loss();
        at[i] = before;
        ASSERT_NEAR((above - below) / (2 * h), gradient[i], 1e-8) << i;
      }
    };
    norm();
    RmsNormBackward<double>(x.data(), w.data(), rstd.data(), dy.data(), n, c, false, dx.data());
    check(x, norm, dx);
    SwiGluBackward<double>(x.data(), up.data(), dy.data(), n * c, dgate.data(), dup.data());
    check(x, gated, dgate);
    check(up, gated, dup);
  });
}

// A row does not know its neighbours, an element not its place in a vector, and neither the number of
// threads.
TYPED_TEST(CpuRows, IndependentOfBatchMatesAndThreads) {
  using T = TypeParam;
  const int64_t n = 64, c = 333;
  const auto x = Normal<T>(n * c, 1), w = Normal<T>(c, 2), up = Normal<T>(n * c, 3);
  const auto run = [&](const T* from, const T* other, int64_t rows) {
    std::vector<T> y(rows * c), rstd(rows), dx(rows * c), act(rows * c), da(rows * c), db(rows * c);
    RmsNormForward<T>(from, w.data(), rows, c, T(1e-5), y.data(), rstd.data());
    RmsNormBackward<T>(from, w.data(), rstd.data(), other, rows, c, false, dx.data());
    SwiGluForward<T>(from, other, rows * c, act.data());
    SwiGluBackward<T>(from, other, y.data(), rows * c, da.data(), db.data());
    return std::vector<std::vector<T>>{y, dx, act, da, db};
  };
  ForEachSimd([&] {
    std::vector<std::vector<T>> together;
    {
      const Threads one(1);
      together = run(x.data(), up.data(), n);
    }
    const Threads two(2);
    const auto again = run(x.data(), up.data(), n);
    for (size_t o = 0; o < together.size(); ++o) EXPECT_TRUE(SameBits(again[o], together[o])) << o;
    for (int64_t i : {0, 1, 63}) {
      const auto alone = run(x.data() + i * c, up.data() + i * c, 1);
      for (size_t o = 0; o < together.size(); ++o) {
        EXPECT_TRUE(SameBits(alone[o], {together[o].begin() + i * c, together[o].begin() + (i + 1) * c}))
            << o;
      }
    }
  });
}

}  // namespace
}  // namespace selfedit::cpu
