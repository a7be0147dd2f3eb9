// Internal to native/format: what the files of Dequantize share.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "format/tensor_file.h"

namespace selfedit {

/// Reads an unaligned value.
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

/// `count` values from the blocks at `from`, for the types of 32 values a block (Q4_0 … Q8_0) and for those
/// of 256 (Q2_K … Q6_K). `count` is a whole number of blocks.
void DequantizeBlocks(DType dtype, const uint8_t* from, int64_t count, float* out);
void DequantizeSuperBlocks(DType dtype, const uint8_t* from, int64_t count, float* out);

/// Applies the function of one block to each.
template <void (*Block)(const uint8_t* __restrict, float* __restrict)>
void EachBlock(DType dtype, const uint8_t* from, int64_t count, float* out) {
  const int64_t elements = DTypeBlockElements(dtype), bytes = DTypeBlockBytes(dtype);
  for (int64_t i = 0; i < count / elements; ++i) Block(from + i * bytes, out + i * elements);
}

}  // namespace selfedit
