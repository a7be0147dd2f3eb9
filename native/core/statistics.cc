// How large a delta is, part by part. Everything is summed in float64.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/algebra.h"
#include "core/model.h"
#include "core/parts.h"
#include "core/svd.h"

namespace selfedit {
namespace {

constexpr int64_t kBlockValues = 1 << 22;  // what is made wide, or made at all, at once

// block(i, n) for neighbouring rows [i, i + n).
template <typename Block>
void ForRows(int64_t rows, int64_t width, Block block) {
  const int64_t step = std::max<int64_t>(1, kBlockValues / std::max<int64_t>(1, width));
  for (int64_t i = 0; i < rows; i += step) block(i, std::min(step, rows - i));
}

double Largest(const at::Tensor& t) {
  return t.numel() == 0 ? 0 : t.abs().max().to(at::kDouble).item<double>();
}

double Norm(const at::Tensor& t) {
  double squares = 0;
  ForRows(t.size(0), t.numel() / std::max<int64_t>(1, t.size(0)), [&](int64_t i, int64_t n) {
    squares += t.narrow(0, i, n).to(at::kDouble).square().sum().item<double>();
  });
  return std::sqrt(squares);
}

// Of b a: norms from the singular values of the core of its factors, the largest entry from blocks of rows.
void OfProduct(const at::Tensor& b, const at::Tensor& a, PartStatistics* s) {
  const at::Tensor wide_b = b.to(at::kDouble), wide_a = a.to(at::kDouble);
  const at::Tensor rb = std::get<1>(at::linalg_qr(wide_b, "r")),
                   ra = std::get<1>(at::linalg_qr(wide_a.t(), "r"));
  const at::Tensor sigma = at::linalg_svdvals(at::mm(rb, ra.t()));
  s->norm = sigma.norm().item<double>();
  s->spectral = sigma[0].item<double>();
  ForRows(b.size(0), a.size(1), [&](int64_t i, int64_t n) {
    s->largest = std::max(s->largest, Largest(at::mm(wide_b.narrow(0, i, n), wide_a)));
  });
}

void OfDense(const at::Tensor& values, PartStatistics* s) {
  const int64_t out = values.size(0), in = values.size(1);
  s->norm = Norm(values);
  s->largest = Largest(values);
  s->spectral = LargestSingularValue(
      out, in,
      [&](const at::Tensor& v) {
        at::Tensor u = at::empty({out}, at::kDouble);
        ForRows(out, in, [&](int64_t i, int64_t n) {
          u.narrow(0, i, n).copy_(at::mv(values.narrow(0, i, n).to(at::kDouble), v));
        });
        return u;
      },
      [&](const at::Tensor& u) {
        at::Tensor v = at::zeros({in}, at::kDouble);
        ForRows(out, in, [&](int64_t i, int64_t n) {
          v.add_(at::mv(values.narrow(0, i, n).to(at::kDouble).t(), u.narrow(0, i, n)));
        });
        return v;
      });
}

void OfSparse(const DeltaPart& part, int64_t out, int64_t in, PartStatistics* s) {
  const at::Tensor wide = part.values.to(at::kDouble);
  const double* values = wide.const_data_ptr<double>();
  const int32_t* offsets = part.row_offsets.const_data_ptr<int32_t>();
  const int32_t* columns = part.columns.const_data_ptr<int32_t>();
  s->norm = Norm(wide);
  s->largest = Largest(wide);
  s->spectral = LargestSingularValue(
      out, in,
      [&](const at::Tensor& v) {
        at::Tensor u = at::zeros({out}, at::kDouble);
        const double* from = v.const_data_ptr<double>();
        double* to = u.mutable_data_ptr<double>();
        for (int64_t i = 0; i < out; ++i) {
          for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k) to[i] += values[k] * from[columns[k]];
        }
        return u;
      },
      [&](const at::Tensor& u) {
        at::Tensor v = at::zeros({in}, at::kDouble);
        const double* from = u.const_data_ptr<double>();
        double* to = v.mutable_data_ptr<double>();
        for (int64_t i = 0; i < out; ++i) {
          for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k) to[columns[k]] += values[k] * from[i];
        }
        return v;
      });
}

}  // namespace

std::vector<PartStatistics> DeltaStatistics(const Model& model, const Delta& delta) {
  std::vector<PartStatistics> all;
  int64_t weighed = -1;
  double weight = 0;
  for (const DeltaPart& part : delta.parts) {
    const MatrixInfo& info = model.tensors().at(part.matrix);
    PartStatistics s;
    s.matrix = part.matrix;
    s.kind = part.kind;
    for (const at::Tensor& t : part.trainable()) s.values += t.numel();
    switch (part.kind) {
      case DeltaKind::kLowRank:
        OfProduct(part.b, part.a, &s);
        break;
      case DeltaKind::kSpectral: {
        const DeltaPart wide = Widened(part);
        OfProduct(wide.b * (wide.sigma * wide.values), wide.a, &s);
        break;
      }
      case DeltaKind::kDense:
        OfDense(part.values, &s);
        break;
      case DeltaKind::kSparse:
        OfSparse(part, info.out, info.in, &s);
    }
    const double scale = std::abs(part.scale);
    s.norm *= scale;
    s.largest *= scale;
    s.spectral *= scale;
    if (part.matrix != weighed) {
      weighed = part.matrix;
      weight = Norm(model.Weight(part.matrix));
    }
    // A bias of zeros has no size to compare with.
    s.relative = s.norm == 0 ? 0 : weight == 0 ? std::numeric_limits<double>::infinity() : s.norm / weight;
    all.push_back(s);
  }
  return all;
}

}  // namespace selfedit
