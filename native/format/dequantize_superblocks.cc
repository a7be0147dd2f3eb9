// The GGML types of 256 values a block, in 8 groups of 32 or 16 groups of 16 whose small integer scales (and
// minimums) are themselves scaled by a float16 d (and dmin): value = d · scale · q − dmin · minimum.
// The layouts are those of ggml-common.h; they are said at each type, bytes in the order of the file.
//
// d has 11 significant bits, a scale at most 7 and q at most 5 (Q6_K: scales of −128 … 127, q of −32 … 31),
// so both products are exact in float32 in any order and only the subtraction rounds: the results do not
// depend on whether the compiler fuses it. The loops over 16 or 32 neighbours have no branches and vectorise.
#include "format/dequantize.h"
#include "format/error.h"

namespace selfedit {
namespace {

constexpr int kGroup = 16;

/// out[i] = d · scale · q(i) for one group.
template <typename Quant>
inline void Scaled(float scale, Quant q, float* __restrict out) {
  for (int i = 0; i < kGroup; ++i) out[i] = scale * static_cast<float>(q(i));
}

/// Two bits a value: four values at distance 32 share a byte, lowest bits first; 32 bytes hold one half of
/// the block.
inline int TwoBits(const uint8_t* bytes, int pair, int i) { return (bytes[i] >> (2 * pair)) & 3; }

/// scales[16]: scale in the low and minimum in the high 4 bits; q[64]: 2 bits a value; d; dmin. Groups of 16.
void BlockQ2_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block + 80));
  const float dmin = FromHalf(Load<uint16_t>(block + 82));
  for (int group = 0; group < 16; ++group) {
    const uint8_t* q = block + 16 + group / 8 * 32 + group % 2 * kGroup;
    const int pair = group % 8 / 2;
    const float scale = d * static_cast<float>(block[group] & 15);
    const float minimum = dmin * static_cast<float>(block[group] >> 4);
    for (int i = 0; i < kGroup; ++i) {
      out[group * kGroup + i] = scale * static_cast<float>(TwoBits(q, pair, i)) - minimum;
    }
  }
}

/// high[32]: the third bits, bit g of byte i for value 32 g + i; q[64]: 2 bits a value as in Q2_K;
/// scales[12]; d. Groups of 16. A value is 0 … 3 with its third bit and 4 less without. A scale has 6 bits,
/// less 32: the low 4 in bytes 0 … 7 (scales 8 … 15 in the high halves), the high 2 in bytes 8 … 11, four
/// scales at distance 4 a byte.
void BlockQ3_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block + 108));
  const uint8_t* packed = block + 96;
  for (int group = 0; group < 16; ++group) {
    const uint8_t* q = block + 32 + group / 8 * 32 + group % 2 * kGroup;
    const uint8_t* high = block + group % 2 * kGroup;
    const int pair = group % 8 / 2, bit = group / 2;
    const int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
    const int top = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
    const float scale = d * static_cast<float>((low | top << 4) - 32);
    Scaled(
        scale, [&](int i) { return (TwoBits(q, pair, i) | ((high[i] >> bit) & 1) << 2) - 4; },
        out + group * kGroup);
  }
}

/// Scale and minimum, 6 bits each, of group 0 … 7 of Q4_K and Q5_K. Bytes 0 … 3: scales 0 … 3, bytes 4 … 7:
/// minimums 0 … 3; the low 4 bits of scales 4 … 7 and minimums 4 … 7 in the low and high halves of bytes 8 …
/// 11, their high 2 bits in the top bits of bytes 0 … 3 and 4 … 7.
inline void ScaleAndMinimum(const uint8_t* packed, int group, int* scale, int* minimum) {
  if (group < 4) {
    *scale = packed[group] & 63;
    *minimum = packed[group + 4] & 63;
  } else {
    *scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
    *minimum = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
  }
}

/// d; dmin; scales[12]; q[128]: 4 bits a value, values at distance 32 share a byte. Groups of 32.
void BlockQ4_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const float dmin = FromHalf(Load<uint16_t>(block + 2));
  for (int group = 0; group < 8; ++group) {
    int scale = 0, minimum = 0;
    ScaleAndMinimum(block + 4, group, &scale, &minimum);
    const float s = d * static_cast<float>(scale), m = dmin * static_cast<float>(minimum);
    const uint8_t* q = block + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[group * 32 + i] = s * static_cast<float>((q[i] >> shift) & 15) - m;
    }
  }
}

/// d; dmin; scales[12]; fifth[32]: the fifth bits, bit g of byte i for value 32 g + i; q[128] as in Q4_K.
/// Groups of 32.
void BlockQ5_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block));
  const float dmin = FromHalf(Load<uint16_t>(block + 2));
  const uint8_t* fifth = block + 16;
  for (int group = 0; group < 8; ++group) {
    int scale = 0, minimum = 0;
    ScaleAndMinimum(block + 4, group, &scale, &minimum);
    const float s = d * static_cast<float>(scale), m = dmin * static_cast<float>(minimum);
    const uint8_t* q = block + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = ((q[i] >> shift) & 15) | ((fifth[i] >> group) & 1) << 4;
      out[group * 32 + i] = s * static_cast<float>(value) - m;
    }
  }
}

/// low[128]: the low 4 bits, values at distance 64 share a byte; high[64]: the high 2 bits as in Q2_K;
/// scales[16], signed; d. Groups of 16. A value is less 32.
void BlockQ6_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = FromHalf(Load<uint16_t>(block + 208));
  for (int group = 0; group < 16; ++group) {
    const int half = group / 8, pair = group % 8 / 2;  // pair: which 32 of the half's 128 values
    const uint8_t* low = block + half * 64 + pair % 2 * 32 + group % 2 * kGroup;
    const uint8_t* high = block + 128 + half * 32 + group % 2 * kGroup;
    const int shift = pair / 2 * 4;
    const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + group]));
    Scaled(
        scale, [&](int i) { return (((low[i] >> shift) & 15) | TwoBits(high, pair, i) << 4) - 32; },
        out + group * kGroup);
  }
}

}  // namespace

void DequantizeSuperBlocks(DType dtype, const uint8_t* from, int64_t count, float* out) {
  switch (dtype) {
    case DType::kQ2_K:
      return EachBlock<BlockQ2_K>(dtype, from, count, out);
    case DType::kQ3_K:
      return EachBlock<BlockQ3_K>(dtype, from, count, out);
    case DType::kQ4_K:
      return EachBlock<BlockQ4_K>(dtype, from, count, out);
    case DType::kQ5_K:
      return EachBlock<BlockQ5_K>(dtype, from, count, out);
    case DType::kQ6_K:
      return EachBlock<BlockQ6_K>(dtype, from, count, out);
    default:
      throw Error("INTERNAL", std::string("DequantizeSuperBlocks: ") + DTypeName(dtype));
  }
}

}  // namespace selfedit
