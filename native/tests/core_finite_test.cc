// Which values are finite, bit pattern by bit pattern; and the check of tensors where they lie in their
// files.
#include <ATen/Parallel.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/finite.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using format_test::ExpectError;
using format_test::TemporaryFolder;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Finite, EveryBfloat16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t value = static_cast<uint16_t>(bits);
    ASSERT_EQ(AllFinite(DType::kBF16, &value, 1), std::isfinite(std::bit_cast<float>(bits << 16))) << bits;
  }
}

TEST(Finite, EveryExponentAndTheEndsOfEveryMantissa) {
  for (uint32_t top = 0; top < 512; ++top) {  // sign and exponent
    for (const uint32_t mantissa : {0u, 1u, 0x400000u, 0x7FFFFFu}) {
      const float value = std::bit_cast<float>(top << 23 | mantissa);
      ASSERT_EQ(AllFinite(DType::kF32, &value, 1), std::isfinite(value)) << value;
    }
  }
  for (uint64_t top = 0; top < 4096; ++top) {
    for (const uint64_t mantissa : {uint64_t{0}, uint64_t{1}, (uint64_t{1} << 52) - 1}) {
      const double value = std::bit_cast<double>(top << 52 | mantissa);
      ASSERT_EQ(AllFinite(DType::kF64, &value, 1), std::isfinite(value)) << value;
    }
  }
}

// Four pages are read side by side: none of their places, and none behind them, may be passed over.
TEST(Finite, OneBadValueAtAnyPlace) {
  std::vector<float> values(4 * 1024 + 37, -std::numeric_limits<float>::max());
  EXPECT_TRUE(AllFinite(DType::kF32, values.data(), static_cast<int64_t>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) {
    const float kept = values[i];
    values[i] = i % 2 == 0 ? -kInfinity : std::nanf("");
    ASSERT_FALSE(AllFinite(DType::kF32, values.data(), static_cast<int64_t>(values.size()))) << i;
    ASSERT_TRUE(AllFinite(DType::kF32, values.data(), static_cast<int64_t>(i))) << i;
    values[i] = kept;
  }
}

class FiniteFiles : public ::testing::Test {
 protected:
  // Several pieces and an odd end; tensors of every type, and smaller than a page.
  static constexpr int64_t kLarge = 2 * (4 << 20) / 4 + 4099;

  std::vector<StoredTensor> Write(const std::string& name) {
    WriteSafetensors(folder_ / name, {{"large", DType::kF32, {kLarge}, large_.data()},
                                      {"small", DType::kF32, {3}, small_.data()},
                                      {"half", DType::kBF16, {5}, half_.data()},
                                      {"wide", DType::kF64, {7}, wide_.data()}});
    const auto file = TensorFile::Open(folder_ / name);
    std::vector<StoredTensor> tensors;
    for (const TensorInfo& info : file->tensors()) tensors.push_back({file, &info});
    return tensors;
  }
  void Refuses(const std::vector<StoredTensor>& tensors, const std::string& file, const std::string& tensor) {
    ExpectError([&] { CheckFinite(tensors, [](int64_t) {}); }, "WEIGHT_NOT_FINITE",
                {file, "tensor \"" + tensor + "\""});
  }

  TemporaryFolder folder_;
  std::vector<float> large_ = std::vector<float>(kLarge, 1.5f), small_{1, 2, 3};
  std::vector<uint16_t> half_{0, 1, 2, 3, 0x7F7F};
  std::vector<double> wide_ = std::vector<double>(7, std::numeric_limits<double>::max());
};

TEST_F(FiniteFiles, AllBytesAreCheckedAndToldOnce) {
  const std::vector<StoredTensor> tensors = Write("good.safetensors");
  int64_t total = 0, told = 0;
  for (const StoredTensor& tensor : tensors) total += static_cast<int64_t>(tensor.info->bytes);
  CheckFinite(tensors, [&](int64_t bytes) { told += bytes; });
  EXPECT_EQ(told, total);
  EXPECT_EQ(total, 4 * (kLarge + 3) + 2 * 5 + 8 * 7);
  CheckFinite({}, [](int64_t) { FAIL() << "nothing was read"; });
}

TEST_F(FiniteFiles, TheTensorIsNamedWhereverTheValueLies) {
  const int64_t piece = (4 << 20) / 4;
  for (const int64_t place : {int64_t{0}, piece - 1, piece, 2 * piece - 1, 2 * piece, kLarge - 1}) {
    large_[place] = std::nanf("");
    Refuses(Write("large.safetensors"), "large.safetensors", "large");
    large_[place] = 1.5f;
  }
  small_[2] = kInfinity;
  Refuses(Write("small.safetensors"), "small.safetensors", "small");
  small_[2] = 3;
  half_[0] = 0xFF80;  // minus infinity
  Refuses(Write("half.safetensors"), "half.safetensors", "half");
  half_[0] = 0;
  wide_[6] = std::nan("");
  Refuses(Write("wide.safetensors"), "wide.safetensors", "wide");
}

TEST_F(FiniteFiles, TheFirstOfSeveralIsNamedWithAnyThreads) {
  large_[kLarge - 1] = small_[0] = kInfinity;
  std::vector<StoredTensor> tensors = Write("b.safetensors");
  const std::vector<StoredTensor> first = Write("a.safetensors");
  tensors.insert(tensors.end(), first.begin(), first.end());
  const int threads = at::get_num_threads();
  for (const int count : {1, 2, 5}) {
    at::set_num_threads(count);
    for (int i = 0; i < 10; ++i) Refuses(tensors, "a.safetensors", "large");
  }
  at::set_num_threads(threads);
}

TEST_F(FiniteFiles, WhatTheReportThrowsEndsTheCheck) {
  small_[0] = kInfinity;
  const std::vector<StoredTensor> bad = Write("bad.safetensors");
  small_[0] = 1;
  const std::vector<StoredTensor> good = Write("good.safetensors");
  ExpectError([&] { CheckFinite(good, [](int64_t) { throw Error("ABORTED", "stop"); }); }, "ABORTED");
  ExpectError([&] { CheckFinite(bad, [](int64_t) { throw Error("ABORTED", "stop"); }); },
              "WEIGHT_NOT_FINITE");
}

}  // namespace
}  // namespace selfedit
