// Philox4x32-10 (Salmon et al., SC'11) keyed by 64 bits, counter (position, lane). One header for host and
// device. There is no generator state: every draw is a pure function of (key, position, lane).
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define SELFEDIT_HD __host__ __device__ inline
#else
#define SELFEDIT_HD inline
#endif

namespace selfedit {

struct Philox4 {
  uint32_t v[4];
};

SELFEDIT_HD Philox4 Philox(uint64_t key, uint64_t position, uint64_t lane) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = static_cast<uint32_t>(lane), c3 = static_cast<uint32_t>(lane >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t h0 = static_cast<uint32_t>(p0 >> 32), l0 = static_cast<uint32_t>(p0);
    const uint32_t h1 = static_cast<uint32_t>(p1 >> 32), l1 = static_cast<uint32_t>(p1);
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 53 bits.
SELFEDIT_HD double UniformDouble(uint32_t high, uint32_t low) {
  return ((static_cast<uint64_t>(high) << 32 | low) >> 11) * (1.0 / 9007199254740992.0);
}

// Uniform in (0, 1], 24 bits: safe to take the logarithm of.
SELFEDIT_HD float UniformOpenFloat(uint32_t bits) { return ((bits >> 8) + 1) * (1.0f / 16777216.0f); }

// 64-bit mixing of splitmix64; combines a running hash with the next word.
SELFEDIT_HD uint64_t MixKey(uint64_t hash, uint64_t word) {
  uint64_t z = hash ^ (word + 0x9E3779B97F4A7C15ull + (hash << 6) + (hash >> 2));
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace selfedit
