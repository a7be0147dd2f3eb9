// The float32 product on matrix units against float64, and the bits of a row among any other rows.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/f32_gemm.h"
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename Body>
void ForEachVariant(Body body) {
  for (const char* name : {"amx", "portable"}) {
    if (!SelectF32Simd(name)) {
      std::printf("[          ] this machine cannot run %s\n", name);
      continue;
    }
    SCOPED_TRACE(name);
    ASSERT_STREQ(F32SimdName(), name);
    body();
  }
  SelectF32Simd(nullptr);
}

std::vector<float> Turned(const std::vector<float>& w, int64_t out, int64_t in) {
  std::vector<float> t(w.size());
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t k = 0; k < in; ++k) t[k * out + o] = w[o * in + k];
  }
  return t;
}

std::vector<float> Product(const F32Weight& weight, const std::vector<float>& x, int64_t m) {
  std::vector<float> y(m * weight.out(), kNan);
  F32Product(weight, x.data(), m, weight.in(), y.data(), weight.out());
  return y;
}

// A float32 product's own bound: `in` products, each rounded, in a chain of sums. Six products of terms make
// the chain no worse, as five of them are 2^-8 and less of the first.
double Bound(int64_t in) { return (in + 3.0) * std::ldexp(1.0, -23); }

TEST(CpuF32Gemm, AgreesWithFloat64AndKeepsOffTheRest) {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1},   {7, 3},   {16, 32}, {31, 65},   {33, 33},
                                                {48, 31}, {70, 96}, {64, 64}, {100, 577}, {96, 1056}};
  for (const auto& [out, in] : shapes) {
    const std::vector<float> w = Normal<float>(out * in, out * 1000 + in), turned = Turned(w, out, in);
    for (const bool transposed : {false, true}) {
      const F32Weight weight((transposed ? turned : w).data(), out, in, transposed);
      EXPECT_GE(weight.bytes(), out * in * 4);
      for (const int64_t m : {0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 150, 513}) {
        if (m == 513 && out * in > 10000) continue;
        const int64_t ldx = in + 3, ldy = out + 5;
        std::vector<float> x = Normal<float>(m * ldx, 7);
        for (int64_t i = 0; i < m; ++i) std::fill_n(x.begin() + i * ldx + in, 3, kNan);  // must not be read
        const std::vector<float> before = Normal<float>(m * ldy, 8);
        std::vector<double> sums(m * out), sizes(m * out);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < out; ++j) {
            for (int64_t k = 0; k < in; ++k) {
              const double product = static_cast<double>(x[i * ldx + k]) * w[j * in + k];
              sums[i * out + j] += product;
              sizes[i * out + j] += std::abs(product);
            }
          }
        }
        for (const bool accumulate : {false, true}) {
          ForEachVariant([&] {
            std::vector<float> y = before;
            F32Product(weight, x.data(), m, ldx, y.data(), ldy, accumulate);
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
            EXPECT_LE(worst, Bound(in)) << out << " x " << in << ", m " << m << ", accumulate " << accumulate;
          });
        }
      }
    }
  }
}

TEST(CpuF32Gemm, SeesEveryBitOfBothOperands) {
  // Times the identity, y is what the product saw of x, and times x = 1 what it saw of W: all of it.
  constexpr int64_t kSize = 64;
  std::vector<float> identity(kSize * kSize), w = Normal<float>(kSize * kSize, 4);
  for (int64_t i = 0; i < kSize; ++i) identity[i * kSize + i] = 1;
  std::vector<float> x = Normal<float>(kSize * kSize, 3);
  const float ends[] = {1.00390625f, 1.01171875f, -1.00390625f,  3.0e38f,
                        1e-30f,      255.5f,      0x1.FFFFFEp0f, 0x1.000002p0f};
  std::copy(std::begin(ends), std::end(ends), x.begin());
  std::copy(std::begin(ends), std::end(ends), w.begin());
  const F32Weight one(identity.data(), kSize, kSize, false), other(w.data(), kSize, kSize, false);
  ForEachVariant([&] {
    EXPECT_EQ(Product(one, x, kSize), x);
    EXPECT_EQ(Product(other, identity, kSize), Turned(w, kSize, kSize));
  });
}

// The error of a single product: what is left out of the nine products of terms is below 2^-24 of it.
TEST(CpuF32Gemm, LeavesOutNothingThatFloat32Keeps) {
  const std::vector<float> x = Normal<float>(64, 20), w = Normal<float>(64, 21);
  const F32Weight weight(w.data(), 64, 1, false);
  ForEachVariant([&] {
    const std::vector<float> y = Product(weight, x, 64);
    for (int64_t i = 0; i < 64; ++i) {
      for (int64_t j = 0; j < 64; ++j) {
        const double exact = static_cast<double>(x[i]) * w[j];
        ASSERT_LE(std::abs(y[i * 64 + j] - exact), std::ldexp(std::abs(exact), -22)) << x[i] << " * " << w[j];
      }
    }
  });
}

TEST(CpuF32Gemm, BitsOfARowDoNotDependOnOthersNorOnThreads) {
  constexpr int64_t kRows = 640;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{192, 576}, {70, 1100}, {576, 192}}) {
    const std::vector<float> w = Normal<float>(out * in, 5);
    const F32Weight weight(w.data(), out, in, false);
    const std::vector<float> x = Normal<float>(kRows * in, 6);
    ForEachVariant([&] {
      Threads one(1);
      std::vector<float> alone(kRows * out);
      for (int64_t i = 0; i < kRows; ++i) {
        F32Product(weight, x.data() + i * in, 1, in, alone.data() + i * out, out);
      }
      for (const int threads : {1, 2, 5}) {
        Threads several(threads);
        for (const int64_t m : {2, 5, 16, 17, 33, 64, 130, 300, 513, 640}) {
          // The last rows, so that a row meets every place in a tile.
          const int64_t first = kRows - m;
          const std::vector<float> y = Product(weight, {x.begin() + first * in, x.begin() + kRows * in}, m);
          EXPECT_TRUE(SameBits(y, {alone.begin() + first * out, alone.begin() + kRows * out}))
              << m << " rows, " << threads << " threads";
        }
      }
    });
  }
}

TEST(CpuF32Gemm, BitsDoNotDependOnAddressesNorOnOtherColumns) {
  const std::vector<float> w = Normal<float>(80 * 700, 9);
  const F32Weight weight(w.data(), 80, 700, false), part(w.data() + 32 * 700, 45, 700, false);
  const std::vector<float> x = Normal<float>(20 * 700, 10);
  ForEachVariant([&] {
    const std::vector<float> y = Product(weight, x, 20), columns = Product(part, x, 20);
    std::vector<float> shifted(1 + 20 * 703), moved(3 + 20 * 85);
    for (int64_t i = 0; i < 20; ++i) std::copy_n(x.begin() + i * 700, 700, shifted.begin() + 1 + i * 703);
    F32Product(weight, shifted.data() + 1, 20, 703, moved.data() + 3, 85);
    for (int64_t i = 0; i < 20; ++i) {
      EXPECT_EQ(0, std::memcmp(&moved[3 + i * 85], &y[i * 80], 80 * sizeof(float)));
      EXPECT_EQ(0, std::memcmp(&columns[i * 45], &y[i * 80 + 32], 45 * sizeof(float)));
    }
  });
}

// What is left of a tiny number after two terms may lie below 2^-126 and have more bits than a term holds.
TEST(CpuF32Gemm, TinyNumbersLeaveTheirNeighboursAlone) {
  constexpr int64_t kOut = 40, kIn = 96, kRows = 33;
  std::vector<float> x = Normal<float>(kRows * kIn, 30), w = Normal<float>(kOut * kIn, 31);
  for (std::vector<float>* operand : {&x, &w}) {
    for (size_t i = 0; i < operand->size(); ++i) {
      // Each normal number has a tiny one 16 elements before it or after it.
      const bool tiny = (i % kIn / 16 + i / kIn) % 2;
      if (tiny) (*operand)[i] = std::ldexp((*operand)[i], -100 - static_cast<int>(i * 7 % 50));
    }
  }
  const F32Weight weight(w.data(), kOut, kIn, false);
  ForEachVariant([&] {
    const std::vector<float> y = Product(weight, x, kRows);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kOut; ++j) {
        double sum = 0, size = 1e-30;
        for (int64_t k = 0; k < kIn; ++k) {
          const double product = static_cast<double>(x[i * kIn + k]) * w[j * kIn + k];
          sum += product;
          size += std::abs(product);
        }
        ASSERT_LE(std::abs(y[i * kOut + j] - sum), Bound(kIn) * size) << "row " << i << ", column " << j;
      }
    }
  });
}

TEST(CpuF32Gemm, NanAndInfinityStayInTheirRows) {
  constexpr int64_t kOut = 70, kIn = 600, kRows = 40;
  const std::vector<float> w = Normal<float>(kOut * kIn, 11);
  const F32Weight weight(w.data(), kOut, kIn, false);
  const std::vector<float> x = Normal<float>(kRows * kIn, 12);
  std::vector<float> bad = x;
  bad[3 * kIn + 599] = kNan;
  bad[20 * kIn + 100] = std::numeric_limits<float>::infinity();
  ForEachVariant([&] {
    const std::vector<float> y = Product(weight, x, kRows), rows = Product(weight, bad, kRows);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kOut; ++j) {
        const float found = rows[i * kOut + j];
        if (i == 3) {
          ASSERT_TRUE(std::isnan(found));
        } else if (i == 20) {
          ASSERT_FALSE(std::isfinite(found));
        } else {
          ASSERT_EQ(found, y[i * kOut + j]);
        }
      }
    }
  });
}

TEST(CpuF32Gemm, EmptySumsAndTheChoiceOfAVariant) {
  const F32Weight nothing(nullptr, 5, 0, false);
  std::vector<float> y(10, 3);
  F32Product(nothing, nullptr, 2, 0, y.data(), 5, true);
  EXPECT_EQ(y, std::vector<float>(10, 3));
  F32Product(nothing, nullptr, 2, 0, y.data(), 5);
  EXPECT_EQ(y, std::vector<float>(10, 0));
  EXPECT_FALSE(SelectF32Simd("sse9"));
  EXPECT_EQ(F32ProductPays(), std::string(F32SimdName()) == "amx");
  // The other kernels' instruction set is an upper bound.
  ForEachSimd([] {
    if (std::string(SimdName()) != "avx512") EXPECT_STREQ(F32SimdName(), "portable");
  });
}

}  // namespace
}  // namespace selfedit::cpu
