// The GGML types of 32 values a block. The layouts are those of ggml-common.h: a float16 scale d (and minimum
// m), fifth bits qh, then 4-bit values, the low halves of the 16 bytes first. d has 11 significant bits and q
// at most 8, so q · d is exact in float32 and the results do not depend on whether the compiler fuses it with
// the addition of m.
#include "format/dequantize.h"
#include "format/error.h"

namespace selfedit {
namespace {

constexpr int kBlock = 32;

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

}  // namespace

void DequantizeBlocks(DType dtype, const uint8_t* from, int64_t count, float* out) {
  switch (dtype) {
    case DType::kQ4_0:
      return EachBlock<BlockQ4_0>(dtype, from, count, out);
    case DType::kQ4_1:
      return EachBlock<BlockQ4_1>(dtype, from, count, out);
    case DType::kQ5_0:
      return EachBlock<BlockQ5_0>(dtype, from, count, out);
    case DType::kQ5_1:
      return EachBlock<BlockQ5_1>(dtype, from, count, out);
    case DType::kQ8_0:
      return EachBlock<BlockQ8_0>(dtype, from, count, out);
    default:
      throw Error("INTERNAL", std::string("DequantizeBlocks: ") + DTypeName(dtype));
  }
}

}  // namespace selfedit
