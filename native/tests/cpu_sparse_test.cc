// The sparse products against plain loops in double, for every instruction set that this machine can run.
#include "cpu/sparse.h"
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

struct Pattern {
  int64_t out, in;
  std::vector<int32_t> row_offsets{0}, columns;
  SparseMatrix View() const { return {out, in, row_offsets.data(), columns.data()}; }
  int64_t Count() const { return static_cast<int64_t>(columns.size()); }
};

Pattern RandomPattern(int64_t out, int64_t in, double density, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform;
  Pattern p{out, in, {0}, {}};
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      if (uniform(engine) < density) p.columns.push_back(static_cast<int32_t>(j));
    }
    p.row_offsets.push_back(static_cast<int32_t>(p.columns.size()));
  }
  return p;
}

// Rows given by their lengths: the first columns of each, every second one when they fit.
Pattern PatternOfLengths(int64_t in, const std::vector<int64_t>& lengths) {
  Pattern p{static_cast<int64_t>(lengths.size()), in, {0}, {}};
  for (const int64_t length : lengths) {
    const int64_t step = 2 * length <= in ? 2 : 1;
    for (int64_t k = 0; k < length; ++k) p.columns.push_back(static_cast<int32_t>(k * step));
    p.row_offsets.push_back(static_cast<int32_t>(p.columns.size()));
  }
  return p;
}

struct Case {
  std::string name;
  Pattern pattern;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  cases.push_back({"1 %", RandomPattern(70, 133, 0.01, 1)});
  cases.push_back({"1 %, larger", RandomPattern(192, 576, 0.01, 2)});
  cases.push_back({"50 %", RandomPattern(37, 61, 0.5, 3)});
  cases.push_back({"full", RandomPattern(33, 40, 2, 4)});
  cases.push_back({"nothing", RandomPattern(20, 30, -1, 5)});
  cases.push_back({"one row", RandomPattern(1, 129, 0.5, 6)});
  cases.push_back({"one column", RandomPattern(129, 1, 0.5, 7)});
  cases.push_back({"one element", PatternOfLengths(50, {0, 0, 1, 0})});
  cases.push_back({"one by one", PatternOfLengths(1, {1})});
  cases.push_back({"empty and full rows",
                   PatternOfLengths(35, {0, 35, 0, 0, 1, 2, 3, 35, 34, 16, 17, 0, 0, 0, 0, 0, 0, 0,  0, 0,
                                         0, 0,  0, 0, 0, 0, 0, 0,  0,  0,  0,  0, 0, 0, 0, 0, 5, 35, 0})});
  return cases;
}
constexpr int64_t kRows[] = {0, 1, 2, 7, 16, 33, 70, 140};

struct Twin {
  std::vector<double> y, dx, dvalues;
};

template <typename T>
Twin Expect(const Pattern& p, const std::vector<T>& values, double scale, const std::vector<T>& x,
            const std::vector<T>& dy, int64_t m, const std::vector<T>& y, const std::vector<T>& dx,
            const std::vector<T>& dvalues) {
  Twin twin{Wide(y), Wide(dx), Wide(dvalues)};
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t i = 0; i < p.out; ++i) {
      for (int64_t k = p.row_offsets[i]; k < p.row_offsets[i + 1]; ++k) {
        const int64_t j = p.columns[k];
        const double v = values[k], a = x[t * p.in + j], g = dy[t * p.out + i];
        twin.y[t * p.out + i] += scale * v * a;
        twin.dx[t * p.in + j] += scale * v * g;
        twin.dvalues[k] += scale * a * g;
      }
    }
  }
  return twin;
}

template <typename T>
class CpuSparse : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuSparse, Types);

TYPED_TEST(CpuSparse, AgreesWithPlainLoops) {
  using T = TypeParam;
  for (const Case& c : Cases()) {
    const Pattern& p = c.pattern;
    for (const int64_t m : kRows) {
      SCOPED_TRACE(c.name + ", " + std::to_string(m) + " rows");
      const T scale = static_cast<T>(-0.75);
      const auto values = Normal<T>(p.Count(), 1), x = Normal<T>(m * p.in, 2), dy = Normal<T>(m * p.out, 3),
                 y = Normal<T>(m * p.out, 4), dx = Normal<T>(m * p.in, 5), dvalues = Normal<T>(p.Count(), 6);
      const Twin twin = Expect<T>(p, values, scale, x, dy, m, y, dx, dvalues);
      ForEachSimd([&] {
        std::vector<T> my = y, mdx = dx, mdvalues = dvalues;
        SparseForward<T>(p.View(), values.data(), scale, x.data(), m, my.data());
        SparseBackwardInput<T>(p.View(), values.data(), scale, dy.data(), m, mdx.data());
        SparseBackwardValues<T>(p.View(), scale, x.data(), dy.data(), m, mdvalues.data());
        EXPECT_LT(Difference(my, twin.y), kTolerance<T>);
        EXPECT_LT(Difference(mdx, twin.dx), kTolerance<T>);
        EXPECT_LT(Difference(mdvalues, twin.dvalues), kTolerance<T>);
      });
    }
  }
}

// A row alone, at another address and among any others has the same bits.
TYPED_TEST(CpuSparse, ARowDoesNotDependOnItsBatchMates) {
  using T = TypeParam;
  constexpr int64_t kTotal = 150;
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    const Pattern& p = c.pattern;
    const T scale = static_cast<T>(0.3);
    const auto values = Normal<T>(p.Count(), 1), x = Normal<T>(kTotal * p.in, 2),
               dy = Normal<T>(kTotal * p.out, 3), y = Normal<T>(kTotal * p.out, 4),
               dx = Normal<T>(kTotal * p.in, 5);
    ForEachSimd([&] {
      std::vector<T> whole_y = y, whole_dx = dx;
      SparseForward<T>(p.View(), values.data(), scale, x.data(), kTotal, whole_y.data());
      SparseBackwardInput<T>(p.View(), values.data(), scale, dy.data(), kTotal, whole_dx.data());
      for (int64_t m = 1; m <= kTotal; m += m < 20 ? 1 : 13) {
        const int64_t first = (m * 37) % (kTotal - m + 1), shift = m % 17;
        const auto part = [&](const std::vector<T>& from, int64_t width) {
          std::vector<T> to(shift + m * width);
          std::copy_n(from.begin() + first * width, m * width, to.begin() + shift);
          return to;
        };
        auto px = part(x, p.in), pdy = part(dy, p.out), py = part(y, p.out), pdx = part(dx, p.in);
        SparseForward<T>(p.View(), values.data(), scale, px.data() + shift, m, py.data() + shift);
        SparseBackwardInput<T>(p.View(), values.data(), scale, pdy.data() + shift, m, pdx.data() + shift);
        ASSERT_EQ(std::memcmp(py.data() + shift, whole_y.data() + first * p.out, m * p.out * sizeof(T)), 0)
            << m;
        ASSERT_EQ(std::memcmp(pdx.data() + shift, whole_dx.data() + first * p.in, m * p.in * sizeof(T)), 0)
            << m;
      }
    });
  }
}

// Lanes that belong to no batch row, and columns that D does not have, take part in nothing.
TYPED_TEST(CpuSparse, NanStaysInItsRow) {
  using T = TypeParam;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Pattern p = PatternOfLengths(40, {20, 3, 0, 20});  // even columns only
  ForEachSimd([&] {
    for (const int64_t m : {1, 5, 19, 37}) {
      auto x = Normal<T>(m * 40, 1), dy = Normal<T>(m * 4, 2);
      const auto values = Normal<T>(p.Count(), 3);
      for (int64_t t = 0; t < m; ++t) x[t * 40 + 7] = nan;
      const int64_t bad = m / 2;
      x[bad * 40] = nan;
      dy[bad * 4 + 1] = nan;
      std::vector<T> y(m * 4), dx(m * 40), dvalues(p.Count());
      SparseForward<T>(p.View(), values.data(), 1, x.data(), m, y.data());
      SparseBackwardInput<T>(p.View(), values.data(), 1, dy.data(), m, dx.data());
      SparseBackwardValues<T>(p.View(), 1, x.data(), dy.data(), m, dvalues.data());
      for (int64_t t = 0; t < m; ++t) {
        for (int64_t i = 0; i < 4; ++i)
          EXPECT_EQ(std::isnan(y[t * 4 + i]), t == bad && i != 2) << t << " " << i;
        for (int64_t j = 0; j < 40; ++j)
          EXPECT_EQ(std::isnan(dx[t * 40 + j]), t == bad && j < 6 && j % 2 == 0);
      }
      for (int64_t k = 0; k < p.Count(); ++k) {
        EXPECT_EQ(std::isnan(dvalues[k]), p.columns[k] == 0 || (k >= 20 && k < 23)) << k;
      }
    }
  });
}

}  // namespace
}  // namespace selfedit::cpu
