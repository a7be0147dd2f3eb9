// The blocked bfloat16 product against float64, row by row against batches, and the split against its
// definition.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/blocked_bf16.h"
#include "core/linear.h"
#include "core/torch_version.h"
#include "cpu/dispatch.h"
#include "cpu/kernels.h"

namespace selfedit {
namespace {

float FromBits(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

at::Tensor Normal(at::IntArrayRef shape, int64_t seed) {
  at::Tensor t = at::empty(shape, at::kFloat);
  float* out = t.mutable_data_ptr<float>();
  uint64_t state = static_cast<uint64_t>(seed) * 2654435761u + 1;
  for (int64_t i = 0; i < t.numel(); ++i) {
    double sum = 0;
    for (int j = 0; j < 6; ++j) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<double>(state >> 40) / (1 << 24) - 0.5;
    }
    out[i] = static_cast<float>(sum);
  }
  return t;
}

TEST(SplitBf16, TermsAreRoundedAsAtenDoesAndAddUp) {
  const c10::InferenceMode inference;
  for (const char* simd : {"portable", "avx2", "avx512"}) {
    if (!cpu::SelectSimd(simd)) continue;
    for (const int64_t c : {1, 7, 16, 37, 64}) {
      at::Tensor x = Normal({5, c + 3}, c);
      float* xs = x.mutable_data_ptr<float>();
      xs[0] = 1.00390625f;  // half way between two bfloat16: to even
      constexpr int64_t kRows = 5, kPadded = 7;
      std::vector<uint16_t> terms(3 * kPadded * c, 0xFFFF);
      cpu::SplitBf16(xs, c + 3, kRows, kPadded, c, 3, terms.data());
      const at::Tensor rounded = x.to(at::kBFloat16).to(at::kFloat);
      for (int64_t i = 0; i < kPadded; ++i) {
        for (int64_t j = 0; j < c; ++j) {
          float part[3];
          for (int t = 0; t < 3; ++t) part[t] = FromBits(terms[(t * kPadded + i) * c + j]);
          if (i >= kRows) {
            EXPECT_EQ(part[0], 0);
            EXPECT_EQ(part[1], 0);
            continue;
          }
          const float value = xs[i * (c + 3) + j];
          EXPECT_EQ(part[0], rounded.const_data_ptr<float>()[i * (c + 3) + j]);
          EXPECT_LE(std::abs(value - part[0] - part[1]), std::ldexp(std::abs(value), -16)) << simd;
          EXPECT_EQ(part[0] + part[1] + part[2], value) << simd;
        }
      }
    }
    const float odd[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                         -std::numeric_limits<float>::infinity(), -0.0f};
    uint16_t one[4];
    cpu::SplitBf16(odd, 4, 1, 1, 4, 1, one);
    EXPECT_TRUE(std::isnan(FromBits(one[0])));
    EXPECT_EQ(FromBits(one[1]), odd[1]);
    EXPECT_EQ(FromBits(one[2]), odd[2]);
    EXPECT_TRUE(std::signbit(FromBits(one[3])));
  }
  for (const char* best : {"portable", "avx2", "avx512"}) cpu::SelectSimd(best);
}

struct Shape {
  int64_t n, in, out;
};
const Shape kShapes[] = {{1, 32, 16},    {15, 64, 48},    {16, 96, 64},  {17, 64, 80},
                         {63, 576, 192}, {130, 160, 208}, {300, 64, 64}, {40, 2080, 112}};

double RelativeError(const at::Tensor& y, const at::Tensor& expected) {
  return (y.to(at::kDouble) - expected).norm().item<double>() / expected.norm().item<double>();
}

TEST(BlockedBf16, AgreesWithFloat64) {
  if (!torch_version::HasBf16Blocks()) return;  // without matrix units Linear takes another way
  const c10::InferenceMode inference;
  for (const Shape& s : kShapes) {
    for (const bool transposed : {false, true}) {
      const at::Tensor w = Normal(transposed ? at::IntArrayRef{s.in, s.out} : at::IntArrayRef{s.out, s.in}, 5)
                               .to(at::kBFloat16);
      const at::Tensor wide = transposed ? w.to(at::kDouble) : w.to(at::kDouble).t();
      const at::Tensor x = Normal({s.n, s.in}, 9);
      const BlockedBf16 blocked(w, transposed);
      const at::Tensor rounded = at::mm(x.to(at::kBFloat16).to(at::kDouble), wide);
      const at::Tensor full = at::mm(x.to(at::kDouble), wide);
      const at::Tensor y = blocked.Product(x, 1);
      ASSERT_EQ(y.sizes(), (std::vector<int64_t>{s.n, s.out}));
      EXPECT_LT(RelativeError(y, rounded), 1e-6);
      EXPECT_LT(RelativeError(blocked.Product(x, 2), full), 1e-5);
      // As good as a product in float32.
      EXPECT_LT(RelativeError(blocked.Product(x, 3), full), 1e-6);
    }
  }
}

TEST(BlockedBf16, ARowsBitsDependOnThatRowAlone) {
  if (!torch_version::HasBf16Blocks()) return;  // without matrix units Linear takes another way
  const c10::InferenceMode inference;
  const int threads = at::get_num_threads();
  for (const Shape& s : {Shape{0, 576, 208}, Shape{0, 2080, 64}}) {
    const BlockedBf16 blocked(Normal({s.out, s.in}, 3).to(at::kBFloat16), false);
    const at::Tensor x = Normal({333, s.in}, 4);
    for (const int terms : {1, 3}) {
      at::set_num_threads(1);
      const at::Tensor all = blocked.Product(x, terms);
      for (const int count : {1, 2, 3}) {
        at::set_num_threads(count);
        EXPECT_TRUE(at::equal(blocked.Product(x, terms), all)) << count << " threads";
        for (const int64_t n : {1, 2, 15, 16, 17, 47, 64, 65, 100, 200}) {
          const int64_t first = 333 - n;
          EXPECT_TRUE(at::equal(blocked.Product(x.narrow(0, first, n), terms), all.narrow(0, first, n)))
              << n << " rows, " << count << " threads";
        }
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Linear, ARowsBitsDependOnThatRowAloneUnderBfloat16Weights) {
  const c10::InferenceMode inference;
  for (const Operand operand : {Operand::kRounded, Operand::kFull}) {
    const Linear linear(Normal({208, 96}, 3).to(at::kBFloat16), std::nullopt, operand);
    const at::Tensor x = Normal({150, 96}, 4), all = linear.Forward(x);
    for (const int64_t n : {1, 2, 15, 16, 17, 64, 100}) {
      EXPECT_TRUE(at::equal(linear.Forward(x.narrow(0, 150 - n, n)), all.narrow(0, 150 - n, n))) << n;
    }
  }
}

// Whichever way the machine has: a full operand loses nothing, also where the shape fits no block.
TEST(Linear, AFullOperandUnderBfloat16WeightsIsAsGoodAsFloat32) {
  const c10::InferenceMode inference;
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{80, 64}, {37, 12}}) {
    const at::Tensor w = Normal({out, in}, 8).to(at::kBFloat16);
    const Linear linear(w, std::nullopt, Operand::kFull);
    const at::Tensor x = Normal({20, in}, 2), dy = Normal({20, out}, 6);
    EXPECT_EQ(linear.bytes(), static_cast<int64_t>(w.nbytes()));
    EXPECT_LT(RelativeError(linear.Forward(x), at::mm(x.to(at::kDouble), w.to(at::kDouble).t())), 1e-6);
    EXPECT_LT(RelativeError(linear.BackwardInput(dy), at::mm(dy.to(at::kDouble), w.to(at::kDouble))), 1e-5);
    EXPECT_GE(linear.bytes(), 3 * static_cast<int64_t>(w.nbytes()));  // packed once for each direction
  }
}

}  // namespace
}  // namespace selfedit
