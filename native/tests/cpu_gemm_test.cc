// The low-rank products against a plain twin in long double, for every instruction set that this machine can
// run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/gemm.h"

namespace selfedit::cpu {
namespace {

template <typename T>
std::vector<T> Normal(size_t count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(normal(engine));
  return values;
}

struct Shape {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  double alpha = 1, beta = 0;
  int64_t pad = 0;  // elements between the rows of every matrix beyond its width
};

std::string Name(const Shape& s) {
  return std::string(s.transpose_a ? "T" : "N") + (s.transpose_b ? "T" : "N") + " m " + std::to_string(s.m) +
         " n " + std::to_string(s.n) + " k " + std::to_string(s.k) + " alpha " + std::to_string(s.alpha) +
         " beta " + std::to_string(s.beta) + " pad " + std::to_string(s.pad);
}

// Relative to the sum of magnitudes, which bounds the rounding of any order of summation: the largest error
// of an element, in units of epsilon. Elements outside the matrix must stay as they were.
template <typename T>
void Check(const Shape& s) {
  const int64_t lda = (s.transpose_a ? s.m : s.k) + s.pad, rows_a = s.transpose_a ? s.k : s.m;
  const int64_t ldb = (s.transpose_b ? s.k : s.n) + s.pad, rows_b = s.transpose_b ? s.n : s.k;
  const int64_t ldc = s.n + s.pad;
  // Exact ends, so that a sanitizer sees a read or a write beyond them; the padding is NaN and must not be
  // read.
  std::vector<T> a = Normal<T>(rows_a * lda, 1), b = Normal<T>(rows_b * ldb, 2), c = Normal<T>(s.m * ldc, 3);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = 0; i < rows_a; ++i) std::fill_n(a.begin() + (i + 1) * lda - s.pad, s.pad, nan);
  for (int64_t i = 0; i < rows_b; ++i) std::fill_n(b.begin() + (i + 1) * ldb - s.pad, s.pad, nan);
  if (s.beta == 0) {
    for (int64_t i = 0; i < s.m; ++i) std::fill_n(c.begin() + i * ldc, s.n, nan);
  }
  const std::vector<T> before = c;
  const T alpha = static_cast<T>(s.alpha), beta = static_cast<T>(s.beta);
  Gemm<T>(s.transpose_a, s.transpose_b, s.m, s.n, s.k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(),
          ldc);
  double worst = 0;
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      long double sum = 0, size = 0;
      for (int64_t p = 0; p < s.k; ++p) {
        const long double term = static_cast<long double>(s.transpose_a ? a[p * lda + i] : a[i * lda + p]) *
                                 (s.transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
        sum += term;
        size += std::abs(term);
      }
      const long double old = s.beta == 0 ? 0 : static_cast<long double>(beta) * before[i * ldc + j];
      const long double want = alpha * sum + old;
      size = std::abs(alpha) * size + std::abs(old) + std::numeric_limits<T>::min();
      const double error =
          static_cast<double>(std::abs(c[i * ldc + j] - want) / size / std::numeric_limits<T>::epsilon());
      if (!(error <= worst)) worst = error;
    }
    for (int64_t j = s.n; j < ldc; ++j) {
      ASSERT_EQ(c[i * ldc + j], before[i * ldc + j]) << Name(s) << ": wrote past row " << i;
    }
  }
  // A wrong, missing or doubled term is an error of about 1 / (k epsilon), many thousand at these k.
  ASSERT_LE(worst, 16) << Name(s);
}

// Tests of a set that the processor lacks do not exist here, and that is said.
std::vector<const char*> SetsOfThisProcessor() {
  const std::string before = SimdName();
  std::vector<const char*> sets;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (SelectSimd(name)) {
      sets.push_back(name);
    } else {
      std::cout << "This processor has no " << name << ": its products are not tested here\n";
    }
  }
  SelectSimd(before.c_str());
  return sets;
}

class CpuGemm : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(SelectSimd(GetParam())); }
  void TearDown() override { SelectSimd(before_.c_str()); }

 private:
  const std::string before_ = SimdName();
};

INSTANTIATE_TEST_SUITE_P(Sets, CpuGemm, testing::ValuesIn(SetsOfThisProcessor()),
                         [](const auto& info) { return std::string(info.param); });

template <typename T>
void CheckOddSizes() {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const int64_t m : {1, 2, 5, 7, 13, 33}) {
        for (const int64_t n : {1, 3, 4, 8, 9, 16, 17, 33, 63, 80}) {
          for (const int64_t k : {1, 3, 16, 17, 129, 256, 261}) {
            Check<T>({transpose_a, transpose_b, m, n, k});
            if (testing::Test::HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(CpuGemm, OddSizesInFloat32) { CheckOddSizes<float>(); }
TEST_P(CpuGemm, OddSizesInFloat64) { CheckOddSizes<double>(); }

template <typename T>
void CheckScalarsAndStrides() {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const auto& [alpha, beta] :
           std::vector<std::pair<double, double>>{{1, 1}, {-0.75, 0}, {1, 0.5}, {-0.75, 0.5}}) {
        for (const int64_t pad : {1, 7, 300}) {
          for (const int64_t k : {1, 29, 300, 1050}) {
            Check<T>({transpose_a, transpose_b, 13, 37, k, alpha, beta, pad});
            Check<T>({transpose_a, transpose_b, 26, 3, k, alpha, beta, pad});
            if (testing::Test::HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(CpuGemm, ScalarsAndStridesInFloat32) { CheckScalarsAndStrides<float>(); }
TEST_P(CpuGemm, ScalarsAndStridesInFloat64) { CheckScalarsAndStrides<double>(); }

TEST_P(CpuGemm, TheShapesOfLowRankSegments) {
  for (const int64_t m : {1, 8, 45}) {
    for (const int64_t r : {4, 32, 100}) {
      for (const int64_t width : {576, 1100}) {
        for (const Shape& shape :
             {Shape{false, true, m, r, width}, Shape{false, true, m, width, r, 2, 1},
              Shape{false, false, m, r, width}, Shape{true, false, r, width, m, 1, 1},
              Shape{true, false, width, r, m, 1, 1}, Shape{false, false, m, width, r, 1, 1}}) {
          Check<float>(shape);
          Check<double>(shape);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Small whole numbers are exact in every order: any lost, doubled or misplaced term shows, whatever its size.
TEST_P(CpuGemm, WholeNumbersAreExact) {
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const int64_t k : {7, 128, 500, 2500}) {
        const int64_t m = 23, n = 51;
        std::vector<float> a(m * k), b(n * k), c(m * n, 3);
        for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(static_cast<int>(i * 7 % 15) - 7);
        for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(static_cast<int>(i * 5 % 11) - 5);
        const int64_t lda = transpose_a ? m : k, ldb = transpose_b ? k : n;
        Gemm<float>(transpose_a, transpose_b, m, n, k, 2, a.data(), lda, b.data(), ldb, -1, c.data(), n);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            int64_t sum = 0;
            for (int64_t p = 0; p < k; ++p) {
              sum += static_cast<int64_t>(transpose_a ? a[p * m + i] : a[i * k + p]) *
                     static_cast<int64_t>(transpose_b ? b[j * k + p] : b[p * n + j]);
            }
            ASSERT_EQ(c[i * n + j], static_cast<float>(2 * sum - 3)) << i << ", " << j << " k " << k;
          }
        }
      }
    }
  }
}

TEST_P(CpuGemm, NothingToSumScalesC) {
  std::vector<float> c = {1, 2, std::numeric_limits<float>::quiet_NaN(), 4};
  Gemm<float>(false, false, 1, 2, 0, 1, nullptr, 0, nullptr, 2, 0.5f, c.data(), 2);
  EXPECT_EQ(c[0], 0.5f);
  EXPECT_EQ(c[1], 1);
  Gemm<float>(false, false, 2, 2, 0, 1, nullptr, 0, nullptr, 2, 0, c.data(), 2);
  for (const float x : c) EXPECT_EQ(x, 0);
  Gemm<float>(false, false, 0, 2, 5, 1, nullptr, 5, nullptr, 2, 0, nullptr, 2);
}

TEST_P(CpuGemm, NanInAnOperandReachesItsRowOnly) {
  const int64_t m = 19, n = 21;
  for (const int64_t k : {40, 300}) {
    for (const bool transpose_b : {false, true}) {
      std::vector<float> a = Normal<float>(m * k, 1), b = Normal<float>(n * k, 2), c(m * n);
      a[5 * k + 17] = std::numeric_limits<float>::quiet_NaN();
      a[7 * k + 3] = std::numeric_limits<float>::infinity();
      Gemm<float>(false, transpose_b, m, n, k, 1, a.data(), k, b.data(), transpose_b ? k : n, 0, c.data(), n);
      for (int64_t i = 0; i < m * n; ++i) {
        const int64_t row = i / n;
        EXPECT_EQ(std::isnan(c[i]), row == 5) << row;
        EXPECT_EQ(std::isinf(c[i]), row == 7) << row;
      }
    }
  }
}

// ---- bits
// -------------------------------------------------------------------------------------------------------------

// Every row of a product of `total` rows, computed alone or among any number of others, at any address, has
// the same bits.
template <typename T>
void CheckRows(bool transpose_b, int64_t n, int64_t k, T alpha, T beta) {
  const int64_t total = 200, lda = k + 3, ldc = n + 5, ldb = transpose_b ? k : n;
  const std::vector<T> a = Normal<T>(total * lda, 4), b = Normal<T>(n * k, 5), c = Normal<T>(total * ldc, 6);
  std::vector<T> whole = c;
  Gemm<T>(false, transpose_b, total, n, k, alpha, a.data(), lda, b.data(), ldb, beta, whole.data(), ldc);
  for (int64_t m = 1; m <= total; ++m) {
    const int64_t first = (m * 37) % (total - m + 1);  // another position for each m
    const int64_t shift = m % 17;                      // and another alignment
    std::vector<T> a_part(shift + m * lda), b_part(shift + n * k), c_part(shift + m * ldc);
    std::copy_n(a.begin() + first * lda, m * lda, a_part.begin() + shift);
    std::copy_n(b.begin(), n * k, b_part.begin() + shift);
    std::copy_n(c.begin() + first * ldc, m * ldc, c_part.begin() + shift);
    Gemm<T>(false, transpose_b, m, n, k, alpha, a_part.data() + shift, lda, b_part.data() + shift, ldb, beta,
            c_part.data() + shift, ldc);
    ASSERT_EQ(std::memcmp(c_part.data() + shift, whole.data() + first * ldc, m * ldc * sizeof(T)), 0)
        << (transpose_b ? "NT" : "NN") << " m " << m << " from row " << first << " n " << n << " k " << k;
  }
}

TEST_P(CpuGemm, ARowIsTheSameInEveryBatch) {
  for (const bool transpose_b : {false, true}) {
    for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
             {32, 576}, {576, 32}, {4, 576}, {576, 4}, {7, 300}, {5, 1100}, {61, 37}, {128, 300}, {1, 1}}) {
      CheckRows<float>(transpose_b, n, k, 1, 0);
      CheckRows<float>(transpose_b, n, k, 0.3f, 1);
      CheckRows<double>(transpose_b, n, k, 1, 0.7);
      if (HasFatalFailure()) return;
    }
  }
}

// A row of A^T B is a column of A: its sums must not depend on how many other columns there are, nor on how
// many columns B has beside it (a gradient of A and B is summed over the rows of its segment in one order).
TEST_P(CpuGemm, AGradientIsTheSameForEveryWidth) {
  const int64_t k = 150, m = 61, n = 83;
  const std::vector<float> a = Normal<float>(k * m, 7), b = Normal<float>(k * n, 8);
  std::vector<float> whole(m * n);
  Gemm<float>(true, false, m, n, k, 1, a.data(), m, b.data(), n, 0, whole.data(), n);
  for (int64_t rows = 1; rows <= m; ++rows) {
    const int64_t columns = (rows * 31) % n + 1, first = (rows * 37) % (m - rows + 1),
                  from = (rows * 17) % (n - columns + 1);
    std::vector<float> part(rows * columns);
    Gemm<float>(true, false, rows, columns, k, 1, a.data() + first, m, b.data() + from, n, 0, part.data(),
                columns);
    for (int64_t i = 0; i < rows; ++i) {
      ASSERT_EQ(std::memcmp(&part[i * columns], &whole[(first + i) * n + from], columns * sizeof(float)), 0)
          << "rows " << rows << " columns " << columns;
    }
  }
}

// ---- choice

// The sets sum in different orders: a choice that had no effect would show here.
TEST_P(CpuGemm, TheSelectedSetIsUsed) {
  const int64_t m = 9, n = 50, k = 333;
  const std::vector<float> a = Normal<float>(m * k, 9), b = Normal<float>(n * k, 10);
  const auto run = [&] {
    std::vector<float> c(m * n);
    Gemm<float>(false, true, m, n, k, 1, a.data(), k, b.data(), k, 0, c.data(), n);
    return c;
  };
  const std::vector<float> mine = run();
  for (const char* other : {"portable", "avx2", "avx512"}) {
    if (!SelectSimd(other)) continue;
    EXPECT_EQ(run() == mine, std::string(other) == GetParam()) << other;
  }
}

}  // namespace
}  // namespace selfedit::cpu
