// The bfloat16 product against float64, and the bits of a row among any other rows, for every variant of this
// machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cpu/bf16_gemm.h"
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

float Widen(uint16_t half) { return std::bit_cast<float>(static_cast<uint32_t>(half) << 16); }

// Nearest even, by looking at both neighbours; independent of the kernels' integer arithmetic.
uint16_t Round(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  const auto low = static_cast<uint16_t>(bits >> 16);  // towards 0
  if (std::isinf(x) || Widen(low) == x) return low;
  const auto high = static_cast<uint16_t>(low + 1);
  const double to_low = std::abs(static_cast<double>(x) - Widen(low));
  // One above the largest is 2^128, written as infinity.
  const double above = std::isinf(Widen(high)) ? std::copysign(std::ldexp(1.0, 128), x) : Widen(high);
  const double to_high = std::abs(above - static_cast<double>(x));
  return to_low < to_high || (to_low == to_high && low % 2 == 0) ? low : high;
}

// What of x the products see.
double Seen(float x, int terms) {
  double sum = Widen(Round(x));
  for (int t = 1; t < terms; ++t) sum += Widen(Round(static_cast<float>(x - sum)));
  return sum;
}

template <typename Body>
void ForEachVariant(Body body) {
  for (const char* name : {"amx", "avx512bf16", "avx512", "avx2", "portable"}) {
    if (!SelectBf16Simd(name)) {
      std::printf("[          ] this machine cannot run %s\n", name);
      continue;
    }
    SCOPED_TRACE(name);
    ASSERT_STREQ(Bf16SimdName(), name);
    body();
  }
  SelectBf16Simd(nullptr);
}

struct Matrix {
  int64_t out, in;
  std::vector<uint16_t> w;  // [out, in]
  Matrix(int64_t out, int64_t in, uint64_t seed) : out(out), in(in) {
    for (const float value : Normal<float>(out * in, seed)) w.push_back(Round(value));
  }
  std::vector<uint16_t> Turned() const {
    std::vector<uint16_t> t(w.size());
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) t[k * out + o] = w[o * in + k];
    }
    return t;
  }
};

std::vector<float> Product(const Bf16Weight& weight, const std::vector<float>& x, int64_t m, int terms = 1) {
  std::vector<float> y(m * weight.out(), kNan);
  Bf16Product(weight, x.data(), m, weight.in(), y.data(), weight.out(), terms);
  return y;
}

// Sums of `in` products in float32, in any order: at most (in + terms) half units of the sum of magnitudes.
// Tiles keep no more bits than float32 and may round each product and each sum.
double Bound(int64_t in, int terms) { return (in * terms + 2.0) * std::ldexp(1.0, -23); }

TEST(CpuBf16Gemm, AgreesWithFloat64AndKeepsOffTheRest) {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1},   {7, 3},   {16, 32}, {31, 65},   {33, 33},
                                                {48, 31}, {70, 96}, {64, 64}, {100, 577}, {96, 1056}};
  for (const auto& [out, in] : shapes) {
    const Matrix matrix(out, in, out * 1000 + in);
    for (const bool transposed : {false, true}) {
      const std::vector<uint16_t> turned = matrix.Turned();
      const Bf16Weight weight((transposed ? turned : matrix.w).data(), out, in, transposed);
      EXPECT_GE(weight.bytes(), out * in * 2);
      for (const int64_t m : {0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 513}) {
        if (m == 513 && out * in > 4000) continue;
        const int64_t ldx = in + 3, ldy = out + 5;
        std::vector<float> x = Normal<float>(m * ldx, 7);
        for (int64_t i = 0; i < m; ++i) std::fill_n(x.begin() + i * ldx + in, 3, kNan);  // must not be read
        const std::vector<float> before = Normal<float>(m * ldy, 8);
        for (const int terms : {1, 2, 3}) {
          std::vector<double> sums(m * out), sizes(m * out);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < out; ++j) {
              for (int64_t k = 0; k < in; ++k) {
                const double product = Seen(x[i * ldx + k], terms) * Widen(matrix.w[j * in + k]);
                sums[i * out + j] += product;
                sizes[i * out + j] += std::abs(product);
              }
            }
          }
          for (const bool accumulate : {false, true}) {
            ForEachVariant([&] {
              std::vector<float> y = before;
              Bf16Product(weight, x.data(), m, ldx, y.data(), ldy, terms, accumulate);
              double worst = 0;
              bool outside = true;
              for (int64_t i = 0; i < m; ++i) {
                for (int64_t j = 0; j < ldy; ++j) {
                  const float old = before[i * ldy + j], found = y[i * ldy + j];
                  if (j >= out) {
                    outside = outside && found == old;
                    continue;
                  }
                  const double start = accumulate ? old : 0;
                  const double error = std::abs(found - (sums[i * out + j] + start)) /
                                       (sizes[i * out + j] + std::abs(start) + 1e-30);
                  if (!(error <= worst)) worst = error;
                }
              }
              EXPECT_TRUE(outside) << "columns beyond out were written";
              EXPECT_LE(worst, Bound(in, terms)) << out << " x " << in << ", m " << m << ", terms " << terms
                                                 << ", accumulate " << accumulate;
            });
          }
        }
      }
    }
  }
}

TEST(CpuBf16Gemm, RoundsTheOperandToNearestEven) {
  // Times the identity, y is what the product saw of x.
  constexpr int64_t kSize = 64;
  std::vector<uint16_t> identity(kSize * kSize);
  for (int64_t i = 0; i < kSize; ++i) identity[i * kSize + i] = 0x3F80;
  const Bf16Weight weight(identity.data(), kSize, kSize, false);
  std::vector<float> x = Normal<float>(16 * kSize, 3);
  const float ends[] = {1.00390625f, 1.01171875f, -1.00390625f, 3.0e38f,
                        1e-30f,      -0.0f,       255.5f,       0x1.FEFFFEp127f};
  std::copy(std::begin(ends), std::end(ends), x.begin());
  ForEachVariant([&] {
    for (const int terms : {1, 2, 3}) {
      const std::vector<float> y = Product(weight, x, 16, terms);
      for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], Seen(x[i], terms)) << x[i] << ", terms " << terms;
      if (terms == 3) {
        for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], x[i]);
      }
    }
  });
}

TEST(CpuBf16Gemm, BitsOfARowDoNotDependOnOthersNorOnThreads) {
  constexpr int64_t kRows = 513;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{192, 576}, {70, 1100}, {576, 192}}) {
    const Matrix matrix(out, in, 5);
    const Bf16Weight weight(matrix.w.data(), out, in, false);
    const std::vector<float> x = Normal<float>(kRows * in, 6);
    ForEachVariant([&] {
      for (const int terms : {1, 3}) {
        Threads one(1);
        std::vector<float> alone(kRows * out);
        for (int64_t i = 0; i < kRows; ++i) {
          Bf16Product(weight, x.data() + i * in, 1, in, alone.data() + i * out, out, terms);
        }
        for (const int threads : {1, 2, 5}) {
          Threads several(threads);
          for (const int64_t m : {2, 5, 16, 17, 33, 40, 64, 65, 130, 300, 513}) {
            // The last rows, so that a row meets every place in a tile.
            const int64_t first = kRows - m;
            const std::vector<float> y =
                Product(weight, {x.begin() + first * in, x.begin() + kRows * in}, m, terms);
            EXPECT_TRUE(SameBits(y, {alone.begin() + first * out, alone.begin() + kRows * out}))
                << m << " rows, " << threads << " threads, terms " << terms;
          }
        }
      }
    });
  }
}

TEST(CpuBf16Gemm, BitsDoNotDependOnAddressesNorOnOtherColumns) {
  const Matrix matrix(80, 700, 9);
  const Bf16Weight weight(matrix.w.data(), 80, 700, false);
  const Bf16Weight part(matrix.w.data() + 32 * 700, 45, 700, false);
  const std::vector<float> x = Normal<float>(20 * 700, 10);
  ForEachVariant([&] {
    const std::vector<float> y = Product(weight, x, 20), columns = Product(part, x, 20);
    std::vector<float> shifted(1 + 20 * 703), moved(3 + 20 * 85);
    for (int64_t i = 0; i < 20; ++i) std::copy_n(x.begin() + i * 700, 700, shifted.begin() + 1 + i * 703);
    Bf16Product(weight, shifted.data() + 1, 20, 703, moved.data() + 3, 85);
    for (int64_t i = 0; i < 20; ++i) {
      EXPECT_EQ(0, std::memcmp(&moved[3 + i * 85], &y[i * 80], 80 * sizeof(float)));
      EXPECT_EQ(0, std::memcmp(&columns[i * 45], &y[i * 80 + 32], 45 * sizeof(float)));
    }
  });
}

TEST(CpuBf16Gemm, NanAndInfinityStayInTheirRowsAndColumns) {
  constexpr int64_t kOut = 70, kIn = 600, kRows = 40;
  Matrix matrix(kOut, kIn, 11);
  std::vector<float> x = Normal<float>(kRows * kIn, 12);
  const Bf16Weight finite(matrix.w.data(), kOut, kIn, false);
  matrix.w[33 * kIn + 5] = 0x7FC0;  // NaN
  matrix.w[40 * kIn + 5] = 0x7F80;  // infinity
  const Bf16Weight weight(matrix.w.data(), kOut, kIn, false);
  std::vector<float> bad = x;
  bad[3 * kIn + 599] = kNan;
  bad[20 * kIn + 100] = kInf;
  bad[39 * kIn + 200] = -kInf;
  ForEachVariant([&] {
    for (const int terms : {1, 2, 3}) {
      const std::vector<float> y = Product(finite, x, kRows, terms);
      const std::vector<float> rows = Product(finite, bad, kRows, terms),
                               columns = Product(weight, x, kRows, terms);
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < kOut; ++j) {
          const float found = rows[i * kOut + j], w100 = Widen(matrix.w[j * kIn + 100]),
                      w200 = Widen(matrix.w[j * kIn + 200]);
          if (i == 3) {
            ASSERT_TRUE(std::isnan(found));
          } else if (i == 20 || i == 39) {
            ASSERT_EQ(found, i == 20 ? std::copysign(kInf, w100) : -std::copysign(kInf, w200));
          } else {
            ASSERT_EQ(found, y[i * kOut + j]);
          }
          const float other = columns[i * kOut + j];
          if (j == 33) {
            ASSERT_TRUE(std::isnan(other));
          } else if (j == 40) {
            const float factor = x[i * kIn + 5];
            // With several terms a later one may have the other sign: infinity minus infinity.
            ASSERT_TRUE(terms > 1 ? !std::isfinite(other) : other == std::copysign(kInf, factor));
          } else {
            ASSERT_EQ(other, y[i * kOut + j]);
          }
        }
      }
    }
  });
}

TEST(CpuBf16Gemm, EmptySumsAndTheChoiceOfAVariant) {
  const Bf16Weight nothing(nullptr, 5, 0, false);
  std::vector<float> y(10, 3);
  Bf16Product(nothing, nullptr, 2, 0, y.data(), 5, 1, true);
  EXPECT_EQ(y, std::vector<float>(10, 3));
  Bf16Product(nothing, nullptr, 2, 0, y.data(), 5);
  EXPECT_EQ(y, std::vector<float>(10, 0));
  EXPECT_FALSE(SelectBf16Simd("sse9"));
  // The other kernels' instruction set is an upper bound.
  ForEachSimd([] {
    const std::string simd = SimdName(), chosen = Bf16SimdName();
    if (simd == "avx512") {
      EXPECT_TRUE(chosen == "amx" || chosen.starts_with("avx512")) << chosen;
    } else {
      EXPECT_EQ(chosen, simd);
    }
  });
}

}  // namespace
}  // namespace selfedit::cpu
