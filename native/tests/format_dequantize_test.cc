// Dequantisation against the definition of the GGML blocks, written element by element in float64, and
// against the bits that gguf-py gives.
#include <bit>
#include <cmath>
#include <limits>

#include "format_helpers.h"

namespace selfedit {
namespace {

#include "format_fixture.inc"

using format_test::Append;
using format_test::Bytes;
using format_test::ExpectError;
using format_test::OpenBytes;

/// IEEE 754 binary16 by its definition.
double Half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) {
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

uint16_t Word(const uint8_t* at) { return static_cast<uint16_t>(at[0] + 256 * at[1]); }

/// Element `i` of a block of 32. Values i and i + 16 share byte i of the 4-bit values, i in the low half.
double BlockElement(DType dtype, const uint8_t* block, int i) {
  const auto four = [&](int start) { return i < 16 ? block[start + i] % 16 : block[start + i - 16] / 16; };
  const auto fifth = [&](int start) { return (block[start + i / 8] >> (i % 8)) % 2; };
  const double d = Half(Word(block));
  switch (dtype) {
    case DType::kQ4_0:
      return d * (four(2) - 8);
    case DType::kQ4_1:
      return d * four(4) + Half(Word(block + 2));
    case DType::kQ5_0:
      return d * (four(6) + 16 * fifth(2) - 16);
    case DType::kQ5_1:
      return d * (four(8) + 16 * fifth(4)) + Half(Word(block + 2));
    case DType::kQ8_0:
      return d * (block[2 + i] < 128 ? block[2 + i] : block[2 + i] - 256);
    default:
      ADD_FAILURE();
      return 0;
  }
}

/// `bits` bits from bit `first` on of a byte.
int Bits(uint8_t byte, int first, int bits) { return byte / (1 << first) % (1 << bits); }

/// Scale and minimum k = 0 … 7 of Q4_K and Q5_K, as get_scale_min_k4 of ggml-quants.c defines them.
std::pair<int, int> ScaleMinimum(const uint8_t* packed, int k) {
  if (k < 4) return {Bits(packed[k], 0, 6), Bits(packed[k + 4], 0, 6)};
  return {Bits(packed[k + 4], 0, 4) + 16 * Bits(packed[k - 4], 6, 2),
          Bits(packed[k + 4], 4, 4) + 16 * Bits(packed[k], 6, 2)};
}

/// Element `i` of a block of 256: half h of 128, quarter j of 32 in it, place l in that, each found from `i`
/// alone.
double SuperBlockElement(DType dtype, const uint8_t* block, int i) {
  const int h = i / 128, j = i % 128 / 32, l = i % 32;
  switch (dtype) {
    case DType::kQ2_K: {
      const uint8_t scale = block[i / 16];
      return Half(Word(block + 80)) * (scale % 16) * Bits(block[16 + 32 * h + l], 2 * j, 2) -
             Half(Word(block + 82)) * (scale / 16);
    }
    case DType::kQ3_K: {
      const uint8_t* packed = block + 96;
      const int k = i / 16;
      const int scale = Bits(packed[k % 8], k / 8 * 4, 4) + 16 * Bits(packed[8 + k % 4], k / 4 * 2, 2) - 32;
      const int q = Bits(block[32 + 32 * h + l], 2 * j, 2) + 4 * Bits(block[l], i / 32, 1) - 4;
      return Half(Word(block + 108)) * scale * q;
    }
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const bool five = dtype == DType::kQ5_K;
      const auto [scale, minimum] = ScaleMinimum(block + 4, i / 32);
      int q = Bits(block[(five ? 48 : 16) + i / 64 * 32 + l], i / 32 % 2 * 4, 4);
      if (five) q += 16 * Bits(block[16 + l], i / 32, 1);
      return Half(Word(block)) * scale * q - Half(Word(block + 2)) * minimum;
    }
    case DType::kQ6_K: {
      const int scale = static_cast<int8_t>(block[192 + i / 16]);
      const int q = Bits(block[64 * h + i % 64], i % 128 / 64 * 4, 4) +
                    16 * Bits(block[128 + 32 * h + l], 2 * j, 2) - 32;
      return Half(Word(block + 208)) * scale * q;
    }
    default:
      ADD_FAILURE();
      return 0;
  }
}

/// Where the float16 scales of a block begin.
std::vector<int> ScaleOffsets(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108};
    case DType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

TensorInfo Info(DType dtype, std::vector<int64_t> shape) {
  TensorInfo info;
  info.name = "w";
  info.dtype = dtype;
  info.shape = std::move(shape);
  info.bytes = static_cast<uint64_t>(info.Rows()) * info.RowBytes();
  return info;
}

/// A small generator of its own, so that the bytes are the same everywhere.
struct Random {
  uint32_t state;
  uint32_t operator()() { return state = state * 1664525u + 1013904223u; }
  uint8_t Byte() { return static_cast<uint8_t>((*this)() >> 24); }
};

class FormatDequantizeBlocks : public ::testing::TestWithParam<DType> {};

TEST_P(FormatDequantizeBlocks, IsTheDefinitionInFloat64) {
  const DType dtype = GetParam();
  const int64_t rows = 40, length = 512;
  const TensorInfo info = Info(dtype, {2, rows / 2, length});
  Random random{static_cast<uint32_t>(dtype)};
  Bytes data(info.bytes);
  for (uint8_t& byte : data) byte = random.Byte();
  const size_t size = static_cast<size_t>(DTypeBlockBytes(dtype));
  for (size_t block = 0; block < data.size() / size; ++block) {  // finite scales: the top exponent bit off
    for (const int at : ScaleOffsets(dtype)) data[block * size + at + 1] &= 0xBF;
  }
  std::vector<float> out(static_cast<size_t>(rows * length));
  Dequantize(info, data.data(), 0, rows, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t elements = static_cast<size_t>(DTypeBlockElements(dtype));
    const double expected = (elements == 32 ? BlockElement : SuperBlockElement)(
        dtype, data.data() + i / elements * size, static_cast<int>(i % elements));
    // The float64 value is exact, so rounding it once gives the float32 bits (a zero may have either sign).
    ASSERT_EQ(out[i], static_cast<float>(expected)) << DTypeName(dtype) << " element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FormatDequantizeBlocks,
                         ::testing::Values(DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                           DType::kQ8_0, DType::kQ2_K, DType::kQ3_K, DType::kQ4_K,
                                           DType::kQ5_K, DType::kQ6_K),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

TEST(FormatDequantize, HasTheBitsOfGgufPy) {
  const auto file = OpenBytes(Bytes(std::begin(kGgufPyFile), std::end(kGgufPyFile)));
  for (const GgufPyTensor& expected : kGgufPyTensors) {
    const TensorInfo& tensor = *file->Find(expected.name);
    EXPECT_STREQ(DTypeName(tensor.dtype), expected.dtype);
    ASSERT_EQ(tensor.RowLength(), expected.length);
    std::vector<float> out(kGgufPyRows * expected.length);
    Dequantize(tensor, file->Data(tensor), 0, kGgufPyRows, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), expected.bits[i]) << expected.name << " element " << i;
    }
  }
}

TEST(FormatDequantize, EveryFloat16AndBFloat16IsExact) {
  Bytes data;
  for (uint32_t bits = 0; bits < 65536; ++bits) Append(&data, static_cast<uint16_t>(bits));
  std::vector<float> out(65536);
  Dequantize(Info(DType::kF16, {65536}), data.data(), 0, 1, out.data());
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double expected = Half(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(out[bits])) << bits;
    } else {
      ASSERT_EQ(out[bits], expected) << bits;
      ASSERT_EQ(std::signbit(out[bits]), std::signbit(expected)) << bits;
    }
  }
  Dequantize(Info(DType::kBF16, {65536}), data.data(), 0, 1, out.data());
  for (uint32_t bits = 0; bits < 65536; ++bits) ASSERT_EQ(std::bit_cast<uint32_t>(out[bits]), bits << 16);
}

template <typename T>
void ExpectPlain(DType dtype, const std::vector<T>& values) {
  Bytes data = {0};  // one byte before: tensors of a file need not be aligned
  for (const T value : values) Append(&data, value);
  std::vector<float> out(values.size());
  Dequantize(Info(dtype, {static_cast<int64_t>(values.size()), 1}), data.data() + 1, 0,
             static_cast<int64_t>(values.size()), out.data());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(out[i], static_cast<float>(values[i])) << DTypeName(dtype);
}

TEST(FormatDequantize, PlainTypes) {
  ExpectPlain<double>(DType::kF64, {0, -1.5, 1e300, 1e-300, 0.1, 16777217});
  ExpectPlain<float>(DType::kF32, {0, -1.5f, 1e30f, 0.1f});
  ExpectPlain<int64_t>(DType::kI64, {0, -1, INT64_MAX, INT64_MIN, 16777217});
  ExpectPlain<int32_t>(DType::kI32, {0, -1, INT32_MAX, INT32_MIN});
  ExpectPlain<int16_t>(DType::kI16, {0, -1, INT16_MAX, INT16_MIN});
  ExpectPlain<int8_t>(DType::kI8, {0, -1, 127, -128});
  ExpectPlain<uint8_t>(DType::kU8, {0, 1, 255});
  ExpectPlain<uint8_t>(DType::kBool, {0, 1});
}

TEST(FormatDequantize, AnyRangeOfRowsIsThatPartOfTheWhole) {
  const auto file = OpenBytes(Bytes(std::begin(kGgufPyFile), std::end(kGgufPyFile)));
  for (const TensorInfo& tensor : file->tensors()) {
    std::vector<float> whole(kGgufPyRows * tensor.RowLength());
    Dequantize(tensor, file->Data(tensor), 0, kGgufPyRows, whole.data());
    for (int64_t first = 0; first <= kGgufPyRows; ++first) {
      for (int64_t rows = 0; first + rows <= kGgufPyRows; ++rows) {
        const size_t count = static_cast<size_t>(rows * tensor.RowLength());
        std::vector<float> part(count + 1, 7);
        Dequantize(tensor, file->Data(tensor), first, rows, part.data());
        EXPECT_EQ(std::memcmp(part.data(), whole.data() + first * tensor.RowLength(), count * sizeof(float)),
                  0);
        EXPECT_EQ(part[count], 7);  // and not one value more
      }
    }
  }
}

TEST(FormatDequantize, RefusesRowsOutsideTheTensor) {
  const TensorInfo info = Info(DType::kF32, {2, 3});
  const Bytes data(info.bytes);
  float out[6];
  for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{
           {-1, 1}, {0, 3}, {2, 1}, {3, 0}, {0, -1}, {1, INT64_MAX}, {INT64_MAX, 1}}) {
    ExpectError([&] { Dequantize(info, data.data(), first, rows, out); }, "INTERNAL", {"\"w\""});
  }
}

TEST(FormatDequantize, ATensorOfAnotherFileIsRefused) {
  const auto file = OpenBytes(Bytes(std::begin(kGgufPyFile), std::end(kGgufPyFile)));
  TensorInfo info = file->tensors()[0];
  info.offset = sizeof kGgufPyFile - 1;
  ExpectError([&] { file->Data(info); }, "INTERNAL");
}

}  // namespace
}  // namespace selfedit
