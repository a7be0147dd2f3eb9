#include "core/random.h"

#include <numeric>
#include <utility>

#include "core/philox.h"

namespace selfedit {

uint64_t DeriveKey(uint64_t seed, std::string_view purpose, const std::vector<int32_t>& indices) {
  uint64_t hash = MixKey(0x5E1FED17ull, seed);
  for (const char c : purpose) hash = MixKey(hash, static_cast<unsigned char>(c));
  hash = MixKey(hash, 0x100 + purpose.size());
  for (const int32_t index : indices) hash = MixKey(hash, static_cast<uint32_t>(index));
  return MixKey(hash, indices.size());
}

std::vector<int32_t> Permutation(uint64_t key, int32_t n) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (int32_t i = n - 1; i > 0; --i) {
    const Philox4 draw = Philox(key, i, 0);
    const int32_t j = static_cast<int32_t>(UniformDouble(draw.v[0], draw.v[1]) * (i + 1));
    std::swap(order[i], order[j]);
  }
  return order;
}

std::vector<double> Uniform(uint64_t key, int64_t n) {
  std::vector<double> draws(n);
  for (int64_t i = 0; i < n; ++i) {
    const Philox4 draw = Philox(key, i, 1);
    draws[i] = UniformDouble(draw.v[0], draw.v[1]);
  }
  return draws;
}

}  // namespace selfedit
