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
  config.rope.theta = 100;
  config.qkv_bias = config.output_bias = config.mlp_bias = biases;
  return config;
}

// Graphs like Mistral's, Qwen3's and Gemma 3's; windows that are shorter than the tests' rows.
inline std::vector<ModelConfig> DeviceArchitectures() {
  ModelConfig mistral = DeviceConfig(), qwen3 = DeviceConfig(), gemma3 = DeviceConfig();
  mistral.architecture = "mistral";
  mistral.sliding_window = 7;
  qwen3.architecture = "qwen3";
  qwen3.qk_norm = true;
  qwen3.head_dim = 24;
  gemma3.architecture = "gemma3";
  gemma3.tied = gemma3.qk_norm = gemma3.post_norms = true;
  gemma3.activation = Activation::kGeluTanh;
  gemma3.embedding_scale = 3.5;
  gemma3.attention_scale = 0.3;
  gemma3.sliding_window = 5;
  gemma3.sliding = {true, false, true};
  gemma3.local_rope = Rope{10, {}};
  return {mistral, qwen3, gemma3};
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

// NaN where NaN is expected, relative to the expected value where that exceeds 1.
inline void ExpectClose(const std::vector<double>& found, const std::vector<double>& expected,
                        double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(std::isnan(found[i]), std::isnan(expected[i])) << i;
    if (std::isnan(expected[i])) continue;
    EXPECT_NEAR(found[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i]))) << i;
  }
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

// A part of any kind on any weight; every third value of a sparse one, row 1 of a matrix without any.
inline DeltaPart DevicePart(const Model& model, int64_t id, DeltaKind kind, uint64_t key,
                            double scale = 0.7) {
  const MatrixInfo& info = model.tensors()[id];
  const int64_t rank = std::min<int64_t>(3, info.out);
  switch (kind) {
    case DeltaKind::kLowRank:
      return DeltaPart::LowRank(id, DeviceNoise({rank, info.in}, key, 0.3),
                                DeviceNoise({info.out, rank}, key + 1, 0.3), scale);
    case DeltaKind::kDense:
      return DeltaPart::Dense(id, DeviceNoise({info.out, info.in}, key, 0.1), scale);
    case DeltaKind::kSpectral:
      return DeltaPart::Spectral(
          id, DeviceNoise({info.out, rank}, key, 0.3), at::add(DeviceNoise({rank}, key + 1, 0.5), 1.0),
          DeviceNoise({rank, info.in}, key + 2, 0.3), DeviceNoise({rank}, key + 3, 0.5), scale);
    case DeltaKind::kSparse:
      break;
  }
  at::Tensor offsets = at::zeros({info.out + 1}, at::kInt);
  std::vector<int32_t> columns;
  for (int64_t i = 0; i < info.out; ++i) {
    for (int64_t j = (i + static_cast<int64_t>(key)) % 3; i != 1 && j < info.in; j += 3) {
      columns.push_back(static_cast<int32_t>(j));
    }
    offsets.mutable_data_ptr<int32_t>()[i + 1] = static_cast<int32_t>(columns.size());
  }
  at::Tensor index = at::empty({static_cast<int64_t>(columns.size())}, at::kInt);
  std::copy(columns.begin(), columns.end(), index.mutable_data_ptr<int32_t>());
  return DeltaPart::Sparse(id, offsets, index, DeviceNoise({index.numel()}, key, 0.2), scale);
}

constexpr DeltaKind kDeviceKinds[] = {DeltaKind::kLowRank, DeltaKind::kSparse, DeltaKind::kDense,
                                      DeltaKind::kSpectral};

// Weights of every sort: linear maps, embedding, head, gains, biases where the model has them; by id.
inline std::vector<int32_t> DeviceWeightsOfEverySort(const Model& model) {
  const TensorIds& ids = model.ids();
  std::vector<int64_t> all{
      0, 8, 20, ids.embedding, ids.head, ids.attention_norm[0], ids.mlp_norm[1], ids.final_norm};
  for (const auto* norms : {&ids.post_attention_norm, &ids.post_mlp_norm, &ids.q_norm, &ids.k_norm})
    all.push_back(norms->at(1));
  for (const int64_t matrix : {1, 13}) all.push_back(ids.bias[matrix]);
  std::erase(all, -1);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return {all.begin(), all.end()};
}

inline DeltaPtr DeviceDelta(const Model& model, const std::vector<int32_t>& ids,
                            const std::vector<DeltaKind>& kinds, uint64_t key) {
  auto delta = std::make_shared<Delta>();
  for (const int32_t id : ids) {
    for (const DeltaKind kind : kinds) {
      delta->parts.push_back(DevicePart(model, id, kind, key + 10 * id + 1000 * static_cast<int>(kind)));
    }
  }
  delta->Check(model);
  return delta;
}

// Frobenius norm of the difference of all ΔW over the norm of the second's.
inline double DeviceDifference(const Model& model, const Delta& found, const Delta& expected) {
  EXPECT_EQ(found.parts.size(), expected.parts.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::min(found.parts.size(), expected.parts.size()); ++i) {
    const DeltaPart &f = found.parts[i], &e = expected.parts[i];
    EXPECT_EQ(f.matrix, e.matrix);
    EXPECT_EQ(f.rank(), e.rank());
    const MatrixInfo& info = model.tensors()[e.matrix];
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
    const std::vector<at::Tensor> left = a.parts[i].trainable(), right = b.parts[i].trainable();
    for (size_t t = 0; t < left.size(); ++t) {
      if (!at::equal(left[t], right[t])) return false;
    }
  }
  return true;
}

}  // namespace selfedit::testing
