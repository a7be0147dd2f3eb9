// Slow twin of kernels/sample.cu: sorts everything. Scaled logits and noise are float, as there.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/philox.h"
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

float Gumbel(uint64_t key, int64_t position, int64_t j) {
  const uint32_t bits = Philox(key, static_cast<uint64_t>(position), static_cast<uint64_t>(j / 4)).v[j % 4];
  const float v = std::min(static_cast<float>(bits) * 0x1p-32f + 0x1p-33f, 1 - 0x1p-24f);
  return static_cast<float>(-std::log(-std::log1p(-static_cast<double>(v))));
}

// Tokens that are kept, best first.
std::vector<int64_t> Kept(const std::vector<float>& z, float top_p, int32_t top_k) {
  std::vector<int64_t> order(z.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return z[a] > z[b]; });
  if (top_k > 0 && top_k < static_cast<int64_t>(order.size())) order.resize(top_k);
  if (top_p >= 1) return order;
  const auto mass = [&](int64_t j) {
    return static_cast<uint64_t>(std::exp(static_cast<double>(z[j]) - z[order[0]]) * 0x1p44);
  };
  uint64_t total = 0, sum = 0;
  for (int64_t j : order) total += mass(j);
  const auto wanted =
      static_cast<uint64_t>(std::ceil(static_cast<double>(top_p) * static_cast<double>(total)));
  const uint64_t target = std::min(std::max<uint64_t>(wanted, 1), total);
  size_t count = 0;
  while (count < order.size() && sum < target) sum += mass(order[count++]);
  order.resize(count);
  return order;
}

}  // namespace

void SampleRows(Type type, const void* logits, int64_t rows, int64_t V, const float* temperature,
                const float* top_p, const int32_t* top_k, const uint64_t* key, const int64_t* position,
                int32_t* token, float* logprob, Stream) {
  for (int64_t r = 0; r < rows; ++r) {
    const bool greedy = temperature[r] == 0;
    const float inverse = greedy ? 1 : 1 / temperature[r];
    std::vector<float> z(V);
    bool defined = true;
    float most = -INFINITY;
    for (int64_t j = 0; j < V; ++j) {
      z[j] = static_cast<float>(host::Load(type, logits, r * V + j)) * inverse;
      defined = defined && !std::isnan(z[j]) && z[j] < INFINITY;
      most = std::max(most, z[j]);
    }
    token[r] = -1;
    logprob[r] = std::nanf("");
    if (!defined || most == -INFINITY) continue;
    double sum = 0;
    for (float x : z) sum += std::exp(static_cast<double>(x) - most);
    float best = -INFINITY;
    for (int64_t j : Kept(z, greedy ? 1 : top_p[r], greedy ? 1 : top_k[r])) {
      const float x = greedy ? z[j] : z[j] + Gumbel(key[r], position[r], j);
      if (x > best || (x == best && x > -INFINITY && j < token[r])) {
        best = x;
        token[r] = static_cast<int32_t>(j);
      }
    }
    logprob[r] = static_cast<float>(z[token[r]] - (most + std::log(sum)));
  }
}

}  // namespace selfedit::cuda
