// Elements of the run-time types on the host, for the twins and their tests: widened to double, rounded to
// nearest even from float as the kernels round.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/kernels/kernels.h"

namespace selfedit::cuda::host {

inline uint16_t ToBFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float FromBFloat16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

inline uint16_t ToFloat16(float x) {
  const uint16_t sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000 : 0);
  if (std::isnan(x)) return 0x7fff;
  const float size = std::fabs(x);
  if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  // Steps of 2^-24 below the least normal number, of 2^(exponent - 10) above; std::nearbyint ties to even.
  int exponent = 0;
  std::frexp(size, &exponent);
  const int step = size < 0x1p-14f ? -24 : exponent - 11;
  const uint32_t count = static_cast<uint32_t>(std::nearbyint(std::ldexp(static_cast<double>(size), -step)));
  // count has its leading bit at 2^10 for normal numbers; a carry to 2^11 moves on into the exponent.
  const uint32_t base = size < 0x1p-14f ? 0 : static_cast<uint32_t>(exponent + 13) << 10;
  return static_cast<uint16_t>(sign | (base + count));
}
inline float FromFloat16(uint16_t x) {
  const int exponent = x >> 10 & 31, fraction = x & 1023;
  const float sign = x & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction != 0 ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

inline double Load(Type type, const void* from, int64_t i) {
  if (type == Type::kFloat32) return static_cast<const float*>(from)[i];
  const uint16_t bits = static_cast<const uint16_t*>(from)[i];
  return type == Type::kBFloat16 ? FromBFloat16(bits) : FromFloat16(bits);
}
inline void Store(Type type, void* to, int64_t i, double x) {
  const float rounded = static_cast<float>(x);
  if (type == Type::kFloat32) {
    static_cast<float*>(to)[i] = rounded;
  } else {
    static_cast<uint16_t*>(to)[i] = type == Type::kBFloat16 ? ToBFloat16(rounded) : ToFloat16(rounded);
  }
}
inline double Round(Type type, double x) {
  uint32_t space = 0;
  Store(type, &space, 0, x);
  return Load(type, &space, 0);
}
// The address of element i.
inline const void* At(Type type, const void* base, int64_t i) {
  return static_cast<const char*>(base) + i * TypeSize(type);
}

// Slot of row t, or -1.
inline int64_t SlotOf(const Segments& segments, int64_t t) {
  for (int64_t s = 0; s < segments.slots; ++s) {
    if (t >= segments.offsets[s] && t < segments.offsets[s + 1]) return s;
  }
  return -1;
}

}  // namespace selfedit::cuda::host
