// Tiny models and batches for the tests of the device engine. The device is the host: the kernels' twins.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/adapt.h"
#include "core/random.h"
#include "cuda/runtime/calls.h"

namespace selfedit::testing {

inline ModelConfig DeviceConfig(bool biases = false) {
  ModelConfig config;
  config.vocab_size = 61;
  config.hidden_size = 32;
  config.intermediate_size = 40;
  config.layers = 3;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.max_positions = 96;
  config.rope_theta = 100;
  config.qkv_bias = config.output_bias = config.mlp_bias = biases;
  return config;
}

inline Ragged DeviceRows(const std::vector<int>& lengths, uint64_t key) {
  Ragged rows;
  int64_t total = 0, draw = 0;
  for (const int length : lengths) total += length;
  const std::vector<double> uniform = Uniform(key, total);
  for (const int length : lengths) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(uniform[draw++] * 61));
    rows.Append(tokens.data(), length);
  }
  return rows;
}

inline at::Tensor DeviceNoise(std::vector<int64_t> shape, uint64_t key, double size) {
  at::Tensor t = at::empty(shape, at::kFloat);
  const std::vector<double> u = Uniform(key, t.numel());
  for (int64_t i = 0; i < t.numel(); ++i)
    t.mutable_data_ptr<float>()[i] = static_cast<float>(size * (2 * u[i] - 1));
  return t;
}

inline DeltaPart DeviceLowRank(const Model& model, int64_t matrix, int64_t rank, uint64_t key,
                               double scale = 0.7) {
  const MatrixInfo& info = model.matrices()[matrix];
  return DeltaPart::LowRank(matrix, DeviceNoise({rank, info.in}, key, 0.3),
                            DeviceNoise({info.out, rank}, key + 1, 0.3), scale);
}

// Frobenius norm of the difference of all ΔW over the norm of the second's.
inline double DeviceDifference(const Model& model, const Delta& found, const Delta& expected) {
  EXPECT_EQ(found.parts.size(), expected.parts.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::min(found.parts.size(), expected.parts.size()); ++i) {
    const DeltaPart &f = found.parts[i], &e = expected.parts[i];
    EXPECT_EQ(f.matrix, e.matrix);
    EXPECT_EQ(f.rank(), e.rank());
    const MatrixInfo& info = model.matrices()[e.matrix];
    const at::Tensor a = f.Materialise(info.out, info.in).to(at::kDouble);
    const at::Tensor b = e.Materialise(info.out, info.in).to(at::kDouble);
    difference += at::sub(a, b).square().sum().item<double>();
    norm += b.square().sum().item<double>();
  }
  EXPECT_GT(norm, 0);
  return std::sqrt(difference / norm);
}

inline bool DeviceSameBits(const Delta& a, const Delta& b) {
  if (a.parts.size() != b.parts.size()) return false;
  for (size_t i = 0; i < a.parts.size(); ++i) {
    if (!at::equal(a.parts[i].a, b.parts[i].a) || !at::equal(a.parts[i].b, b.parts[i].b)) return false;
  }
  return true;
}

}  // namespace selfedit::testing
