// Tiny seeded models, rows and deltas for the tests of the core.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/delta.h"
#include "core/model.h"
#include "core/random.h"

namespace selfedit {

inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 37;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.layers = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.max_positions = 64;
  config.rope.theta = 100;
  config.qkv_bias = true;
  config.output_bias = true;
  config.mlp_bias = true;
  return config;
}

// One of every kind of graph; windows that are shorter than the tests' documents.
inline std::vector<ModelConfig> TinyArchitectures() {
  ModelConfig untied = TinyConfig();
  ModelConfig tied = TinyConfig();
  tied.tied = true;
  tied.rope.scaling.type = RopeScaling::Type::kLlama3;
  tied.rope.scaling.factor = 8;
  tied.rope.scaling.original_max_positions = 16;

  ModelConfig plain = TinyConfig();
  plain.qkv_bias = plain.output_bias = plain.mlp_bias = false;
  ModelConfig mistral = plain;
  mistral.architecture = "mistral";
  mistral.sliding_window = 4;
  ModelConfig qwen3 = plain;
  qwen3.architecture = "qwen3";
  qwen3.qk_norm = true;
  qwen3.rope.scaling.type = RopeScaling::Type::kYarn;
  qwen3.rope.scaling.factors = {1, 2.5};
  qwen3.rope.scaling.attention_factor = 1.2;
  ModelConfig gemma3 = plain;
  gemma3.architecture = "gemma3";
  gemma3.tied = gemma3.qk_norm = gemma3.post_norms = true;
  gemma3.activation = Activation::kGeluTanh;
  gemma3.embedding_scale = 3.5;
  gemma3.attention_scale = 0.3;
  gemma3.sliding_window = 3;
  gemma3.sliding = {true, false, true};
  gemma3.local_rope = Rope{10, {}};
  return {untied, tied, mistral, qwen3, gemma3};
}

inline Ragged TinyRows(const std::vector<int>& lengths, uint64_t key) {
  Ragged rows;
  int64_t draw = 0;
  const std::vector<double> uniform = Uniform(key, 1000);
  for (const int length : lengths) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(uniform[draw++] * 37));
    rows.Append(tokens.data(), length);
  }
  return rows;
}

// Uniform in ±spread, keyed.
inline at::Tensor Filled(std::vector<int64_t> shape, uint64_t key, double spread = 0.5,
                         at::ScalarType type = at::kDouble) {
  at::Tensor t = at::empty(shape, at::kDouble);
  const std::vector<double> u = Uniform(key, t.numel());
  for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data_ptr<double>()[i] = (2 * u[i] - 1) * spread;
  return t.to(type);
}

// A part of any kind on a weight: every third entry (sparse), rank up to 3.
inline DeltaPart TinyPart(const Model& model, int64_t matrix, DeltaKind kind, uint64_t key,
                          double scale = 0.7) {
  const MatrixInfo& info = model.tensors()[matrix];
  const at::ScalarType type = model.activation();
  const int64_t rank = std::min<int64_t>(3, std::min(info.out, info.in));
  switch (kind) {
    case DeltaKind::kLowRank:
      return DeltaPart::LowRank(matrix, Filled({rank, info.in}, key, 0.5, type),
                                Filled({info.out, rank}, key + 1, 0.5, type), scale);
    case DeltaKind::kDense:
      return DeltaPart::Dense(matrix, Filled({info.out, info.in}, key, 0.2, type), scale);
    case DeltaKind::kSpectral: {
      const auto [u, s, v] = at::linalg_svd(model.Weight(matrix).to(at::kDouble), false);
      return DeltaPart::Spectral(
          matrix, u.narrow(1, 0, rank).contiguous().to(type), s.narrow(0, 0, rank).clone().to(type),
          v.narrow(0, 0, rank).contiguous().to(type), Filled({rank}, key, 0.5, type), scale);
    }
    case DeltaKind::kSparse:
      break;
  }
  at::Tensor offsets = at::zeros({info.out + 1}, at::kInt);
  std::vector<int32_t> columns;
  for (int64_t i = 0; i < info.out; ++i) {
    // Row 1 stays empty.
    for (int64_t j = (i + static_cast<int64_t>(key)) % 3; i != 1 && j < info.in; j += 3) {
      columns.push_back(static_cast<int32_t>(j));
    }
    offsets.mutable_data_ptr<int32_t>()[i + 1] = static_cast<int32_t>(columns.size());
  }
  at::Tensor index = at::empty({static_cast<int64_t>(columns.size())}, at::kInt);
  std::copy(columns.begin(), columns.end(), index.mutable_data_ptr<int32_t>());
  return DeltaPart::Sparse(matrix, offsets, index, Filled({index.numel()}, key, 0.4, type), scale);
}

}  // namespace selfedit
