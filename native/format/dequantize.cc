// Any element type to float32. The block layouts are those of ggml-common.h: a float16 scale d (and minimum
// m), fifth bits qh, then 4-bit values, the low halves of the 16 bytes first. d has 11 significant bits and q
// at most 8, so q · d is exact in float32 and the results do not depend on whether the compiler fuses it with
// the addition of m.
#include <bit>
#include <cstring>

#include "format/dtype.h"
#include "format/error.h"
#include "format/json.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

constexpr int kBlock = 32;

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// float16 to float32 without branches on the value, so that loops over it vectorise. Exact; NaN stays NaN.
inline float FromHalf(uint16_t half) {
  const uint32_t shifted = static_cast<uint32_t>(half & 0x7FFF) << 13;
  const uint32_t exponent = shifted & 0x0F800000u;
  const uint32_t rebased = shifted + (112u << 23);  // exponent bias 127 − 15
  // Infinity and NaN take the largest exponent; zero and subnormals are normalised by a subtraction.
  const float special = std::bit_cast<float>(rebased + (112u << 23));
  const float small = std::bit_cast<float>(rebased + (1u << 23)) - std::bit_cast<float>(113u << 23);
  const float magnitude = exponent == 0             ? small
                          : exponent == 0x0F800000u ? special
                                                    : std::bit_cast<float>(rebased);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | static_cast<uint32_t>(half & 0x8000)
                                                                       << 16);
}

inline float FromBFloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

template <typename T, typename Convert>
void Plain(const uint8_t* __restrict from, int64_t count, float* __restrict out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) out[i] = convert(Load<T>(from + i * static_cast<int64_t>(sizeof(T))));
}

void BlockQ4_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const uint8_t* q = block + 2;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>((q[i] & 15) - 8) * d;
  for (int i = 0; i < 16; ++i) out[i + 16] = static_cast<float>((q[i] >> 4) - 8) * d;
}

void BlockQ4_1(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const float m = FromHalf(Load<uint16_t>(block + 2));
  const uint8_t* q = block + 4;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(q[i] & 15) * d + m;
  for (int i = 0; i < 16; ++i) out[i + 16] = static_cast<float>(q[i] >> 4) * d + m;
}

void BlockQ5_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const uint32_t high = Load<uint32_t>(block + 2);
  const uint8_t* q = block + 6;
  for (int i = 0; i < 16; ++i) {
    const int fifth = static_cast<int>((high >> i) & 1) << 4;
    out[i] = static_cast<float>(((q[i] & 15) | fifth) - 16) * d;
  }
  for (int i = 0; i < 16; ++i) {
    const int fifth = static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i + 16] = static_cast<float>(((q[i] >> 4) | fifth) - 16) * d;
  }
}

void BlockQ5_1(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const float m = FromHalf(Load<uint16_t>(block + 2));
  const uint32_t high = Load<uint32_t>(block + 4);
  const uint8_t* q = block + 8;
  for (int i = 0; i < 16; ++i) {
    const int fifth = static_cast<int>((high >> i) & 1) << 4;
    out[i] = static_cast<float>((q[i] & 15) | fifth) * d + m;
  }
  for (int i = 0; i < 16; ++i) {
    const int fifth = static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i + 16] = static_cast<float>((q[i] >> 4) | fifth) * d + m;
  }
}

void BlockQ8_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const uint8_t* q = block + 2;
  for (int i = 0; i < kBlock; ++i) out[i] = static_cast<float>(static_cast<int8_t>(q[i])) * d;
}

template <void (*Block)(const uint8_t* __restrict, float* __restrict)>
void Blocks(const uint8_t* from, int64_t count, int64_t block_bytes, float* out) {
  for (int64_t i = 0; i < count / kBlock; ++i) Block(from + i * block_bytes, out + i * kBlock);
}

}  // namespace

void Dequantize(const TensorInfo& tensor, const uint8_t* data, int64_t first_row, int64_t rows, float* out) {
  const int64_t all = tensor.Rows();
  if (first_row < 0 || rows < 0 || first_row > all || rows > all - first_row) {
    throw Error("INTERNAL", "Dequantize: rows " + std::to_string(first_row) + " + " + std::to_string(rows) +
                                " of tensor " + QuoteForMessage(tensor.name) + ", which has " +
                                std::to_string(all));
  }
  const int64_t count = rows * tensor.RowLength();
  if (count == 0) return;
  const uint8_t* from = data + static_cast<uint64_t>(first_row) * tensor.RowBytes();
  const int64_t block = DTypeBlockBytes(tensor.dtype);
  const auto cast = [](auto value) { return static_cast<float>(value); };
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF64:
      return Plain<double>(from, count, out, cast);
    case DType::kF16:
      return Plain<uint16_t>(from, count, out, FromHalf);
    case DType::kBF16:
      return Plain<uint16_t>(from, count, out, FromBFloat16);
    case DType::kI64:
      return Plain<int64_t>(from, count, out, cast);
    case DType::kI32:
      return Plain<int32_t>(from, count, out, cast);
    case DType::kI16:
      return Plain<int16_t>(from, count, out, cast);
    case DType::kI8:
      return Plain<int8_t>(from, count, out, cast);
    case DType::kU8:
      return Plain<uint8_t>(from, count, out, cast);
    case DType::kBool:
      return Plain<uint8_t>(from, count, out, [](uint8_t v) { return v != 0 ? 1.0f : 0.0f; });
    case DType::kQ4_0:
      return Blocks<BlockQ4_0>(from, count, block, out);
    case DType::kQ4_1:
      return Blocks<BlockQ4_1>(from, count, block, out);
    case DType::kQ5_0:
      return Blocks<BlockQ5_0>(from, count, block, out);
    case DType::kQ5_1:
      return Blocks<BlockQ5_1>(from, count, block, out);
    case DType::kQ8_0:
      return Blocks<BlockQ8_0>(from, count, block, out);
  }
  throw Error("INTERNAL", "Dequantize: unknown element type");
}

}  // namespace selfedit
