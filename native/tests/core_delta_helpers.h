// Small models and deltas of every kind, and their dense twins, for the tests of deltas.
#pragma once
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/algebra.h"
#include "core/model.h"
#include "core/random.h"
#include "format/error.h"

namespace selfedit::delta_test {

inline std::shared_ptr<Model> TinyModel(Dtype dtype) {
  ModelConfig config;
  config.vocab_size = 31;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 4;
  config.max_positions = 64;
  config.qkv_bias = true;
  return Model::Random(config, dtype, 5, 0.3);
}

// Uniform in ±1, in float64.
inline at::Tensor Draw(std::vector<int64_t> shape, uint64_t key) {
  at::Tensor t = at::empty(shape, at::kDouble);
  const std::vector<double> values = Uniform(key, t.numel());
  for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data_ptr<double>()[i] = 2 * values[i] - 1;
  return t;
}

inline DeltaPart RandomPart(const Model& model, DeltaKind kind, int64_t matrix, int64_t rank, uint64_t key,
                            double scale) {
  const MatrixInfo& info = model.tensors().at(matrix);
  const auto type = model.activation();
  switch (kind) {
    case DeltaKind::kLowRank:
      return DeltaPart::LowRank(matrix, Draw({rank, info.in}, key).to(type),
                                Draw({info.out, rank}, key + 1).to(type), scale);
    case DeltaKind::kDense:
      return DeltaPart::Dense(matrix, Draw({info.out, info.in}, key).to(type), scale);
    case DeltaKind::kSpectral: {
      const SpectralFactors f = RandomisedSvd(model.Weight(matrix), rank, 1);
      return DeltaPart::Spectral(matrix, f.u.to(type), f.sigma.to(type), f.v.to(type),
                                 Draw({rank}, key).to(type), scale);
    }
    default:
      break;
  }
  std::vector<int32_t> offsets{0}, columns;
  const std::vector<double> chosen = Uniform(key + 1, info.out * info.in);
  for (int64_t i = 0; i < info.out; ++i) {
    for (int64_t j = 0; j < info.in; ++j) {
      if (chosen[i * info.in + j] < 0.2) columns.push_back(static_cast<int32_t>(j));
    }
    offsets.push_back(static_cast<int32_t>(columns.size()));
  }
  const at::Tensor values = Draw({static_cast<int64_t>(columns.size())}, key).to(type);
  return DeltaPart::Sparse(matrix, at::tensor(offsets, at::kInt), at::tensor(columns, at::kInt), values,
                           scale);
}

// By matrix id, then kind, as a delta needs them.
inline DeltaPtr DeltaOf(const Model& model, std::vector<DeltaPart> parts) {
  auto delta = std::make_shared<Delta>();
  delta->parts = std::move(parts);
  delta->Check(model);
  return delta;
}

// Every kind on one matrix, and others on another matrix, the embedding, a gain and a bias.
inline DeltaPtr MixedDelta(const Model& model, uint64_t key) {
  const auto part = [&](DeltaKind kind, int64_t matrix, uint64_t k, double scale) {
    return RandomPart(model, kind, matrix, 3, 100 * key + k, scale);
  };
  const TensorIds& ids = model.ids();
  return DeltaOf(
      model, {part(DeltaKind::kLowRank, 1, 1, 0.7), part(DeltaKind::kSparse, 1, 3, -1.5),
              part(DeltaKind::kDense, 1, 5, 0.25), part(DeltaKind::kSpectral, 1, 7, 1.25),
              part(DeltaKind::kLowRank, 9, 9, 2), part(DeltaKind::kSparse, ids.embedding, 11, 0.5),
              part(DeltaKind::kDense, ids.final_norm, 13, 1), part(DeltaKind::kSparse, ids.bias[0], 15, 1)});
}

// scale D by plain loops, in float64.
inline at::Tensor Twin(const DeltaPart& part, const MatrixInfo& info) {
  at::Tensor out = at::zeros({info.out, info.in}, at::kDouble);
  double* to = out.mutable_data_ptr<double>();
  const auto wide = [](const at::Tensor& t) {
    const at::Tensor d = t.to(at::kDouble).contiguous();
    return std::vector<double>(d.const_data_ptr<double>(), d.const_data_ptr<double>() + d.numel());
  };
  if (part.kind == DeltaKind::kLowRank || part.kind == DeltaKind::kSpectral) {
    const std::vector<double> a = wide(part.a), b = wide(part.b);
    const int64_t r = part.rank();
    std::vector<double> gain(r, 1.0);
    if (part.kind == DeltaKind::kSpectral) {
      const std::vector<double> sigma = wide(part.sigma), values = wide(part.values);
      for (int64_t k = 0; k < r; ++k) gain[k] = sigma[k] * values[k];
    }
    for (int64_t i = 0; i < info.out; ++i) {
      for (int64_t j = 0; j < info.in; ++j) {
        for (int64_t k = 0; k < r; ++k) to[i * info.in + j] += b[i * r + k] * gain[k] * a[k * info.in + j];
      }
    }
  } else {
    const std::vector<double> values = wide(part.values);
    if (part.kind == DeltaKind::kDense) {
      std::copy(values.begin(), values.end(), to);
    } else {
      const int32_t* offsets = part.row_offsets.const_data_ptr<int32_t>();
      for (int64_t i = 0; i < info.out; ++i) {
        for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k) {
          to[i * info.in + part.columns.const_data_ptr<int32_t>()[k]] = values[k];
        }
      }
    }
  }
  return out.mul_(part.scale);
}

// Sum of all parts of one matrix.
inline at::Tensor Twin(const Delta& delta, const Model& model, int64_t matrix) {
  const MatrixInfo& info = model.tensors()[matrix];
  at::Tensor sum = at::zeros({info.out, info.in}, at::kDouble);
  for (const DeltaPart& part : delta.parts) {
    if (part.matrix == matrix) sum.add_(Twin(part, info));
  }
  return sum;
}

// Largest difference over all weights, relative to the largest value there is.
inline double Difference(const Model& model, const std::function<at::Tensor(int64_t)>& a,
                         const std::function<at::Tensor(int64_t)>& b) {
  double worst = 0, size = 1e-300;
  for (size_t id = 0; id < model.tensors().size(); ++id) {
    const at::Tensor s = a(static_cast<int64_t>(id)), t = b(static_cast<int64_t>(id));
    worst = std::max(worst, (s - t).abs().max().item<double>());
    size = std::max(size, t.abs().max().item<double>());
  }
  return worst / size;
}
inline double Difference(const Model& model, const Delta& a, const Delta& b) {
  return Difference(
      model, [&](int64_t id) { return Twin(a, model, id); }, [&](int64_t id) { return Twin(b, model, id); });
}

inline bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.is_contiguous() &&
         b.is_contiguous() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

inline bool SameBits(const DeltaPart& p, const DeltaPart& q) {
  return p.kind == q.kind && p.matrix == q.matrix && p.scale == q.scale && SameBits(p.a, q.a) &&
         SameBits(p.b, q.b) && SameBits(p.sigma, q.sigma) && SameBits(p.row_offsets, q.row_offsets) &&
         SameBits(p.columns, q.columns) && SameBits(p.values, q.values);
}

inline void ExpectCode(const std::string& code, const std::string& mentions,
                       const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown; expected " << code;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
  }
}

}  // namespace selfedit::delta_test
