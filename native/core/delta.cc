#include "core/delta.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/host_delta.h"
#include "core/materialised.h"
#include "core/model.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

std::string ShapeText(const at::Tensor& t) {
  return t.defined() ? selfedit::ShapeText(t.sizes().vec()) : "missing";
}

bool HasShape(const at::Tensor& t, at::IntArrayRef shape) { return t.defined() && t.sizes() == shape; }

// Throws at the first row whose columns do not ascend, or a column that is not there.
void CheckPattern(const DeltaPart& part, const MatrixInfo& info) {
  const int64_t count = part.values.numel();
  const int32_t* offsets = part.row_offsets.const_data_ptr<int32_t>();
  const int32_t* columns = part.columns.const_data_ptr<int32_t>();
  auto fail = [&](const std::string& what) {
    throw Error("DELTA_INVALID", "\"" + info.name + "\": " + what);
  };
  if (offsets[0] != 0 || offsets[info.out] != count) {
    fail("row offsets go from " + std::to_string(offsets[0]) + " to " + std::to_string(offsets[info.out]) +
         "; expected 0 to " + std::to_string(count) + ", the number of values");
  }
  for (int64_t i = 0; i < info.out; ++i) {
    if (offsets[i + 1] < offsets[i] || offsets[i + 1] > count)
      fail("row offsets fall at row " + std::to_string(i));
    for (int32_t k = offsets[i]; k < offsets[i + 1]; ++k) {
      if (columns[k] < 0 || columns[k] >= info.in) {
        fail("row " + std::to_string(i) + " names column " + std::to_string(columns[k]) + "; there are " +
             std::to_string(info.in));
      }
      if (k > offsets[i] && columns[k] <= columns[k - 1]) {
        fail("row " + std::to_string(i) + ": column " + std::to_string(columns[k]) + " follows column " +
             std::to_string(columns[k - 1]) + "; expected ascending columns, each once");
      }
    }
  }
}

void CheckShapes(const DeltaPart& part, const MatrixInfo& info) {
  const std::string name = "\"" + info.name + "\"";
  const std::string out = std::to_string(info.out), in = std::to_string(info.in);
  auto fail = [&](const std::string& text) { throw Error("DELTA_SHAPE", name + ": " + text); };
  switch (part.kind) {
    case DeltaKind::kLowRank:
    case DeltaKind::kSpectral: {
      const bool spectral = part.kind == DeltaKind::kSpectral;
      if (part.a.dim() != 2 || part.b.dim() != 2 || part.a.size(0) < 1 || part.a.size(1) != info.in ||
          part.b.size(0) != info.out || part.b.size(1) != part.a.size(0)) {
        fail(std::string(spectral ? "V is " : "A is ") + ShapeText(part.a) +
             (spectral ? " and U is " : " and B is ") + ShapeText(part.b) + ", the base needs " +
             (spectral ? "V [r, " : "A [r, ") + in + (spectral ? "] and U [" : "] and B [") + out +
             ", r] with r ≥ 1");
      }
      const int64_t rank = part.rank();
      if (spectral && (!HasShape(part.sigma, {rank}) || !HasShape(part.values, {rank}))) {
        fail("there are " + ShapeText(part.values) + " scales and " + ShapeText(part.sigma) +
             " singular values for rank " + std::to_string(rank));
      }
      if (rank > std::min(info.out, info.in) && spectral) {
        fail("rank is " + std::to_string(rank) + "; the weight has " +
             std::to_string(std::min(info.out, info.in)) + " singular values");
      }
      return;
    }
    case DeltaKind::kSparse:
      if (!HasShape(part.row_offsets, {info.out + 1})) {
        fail("row offsets are " + ShapeText(part.row_offsets) + ", the base needs [" +
             std::to_string(info.out + 1) + "]");
      }
      if (part.values.dim() != 1 || !HasShape(part.columns, part.values.sizes())) {
        fail("columns are " + ShapeText(part.columns) + " and values " + ShapeText(part.values) +
             "; expected one column a value");
      }
      return;
    case DeltaKind::kDense:
      if (!HasShape(part.values, {info.out, info.in})) {
        fail("the values are " + ShapeText(part.values) + ", the base needs [" + out + ", " + in + "]");
      }
  }
}

void CheckValues(const DeltaPart& part, const MatrixInfo& info, at::ScalarType type) {
  for (const at::Tensor& t : {part.a, part.b, part.sigma, part.values}) {
    if (!t.defined()) continue;
    if (t.scalar_type() != type) {
      // The products read the values as the model's own type.
      throw Error("DELTA_INVALID", "\"" + info.name + "\" holds " + c10::toString(t.scalar_type()) +
                                       " values, the model computes in " + c10::toString(type));
    }
    if (!at::isfinite(t).all().item<bool>()) {
      throw Error("DELTA_INVALID",
                  "\"" + info.name + "\" holds NaN or infinite values; expected finite ones");
    }
  }
  for (const at::Tensor& t : {part.row_offsets, part.columns}) {
    if (t.defined() && t.scalar_type() != at::kInt) {
      throw Error("DELTA_INVALID", "\"" + info.name + "\" holds " + c10::toString(t.scalar_type()) +
                                       " indices; expected int32");
    }
  }
}

constexpr int64_t kBlockValues = 1 << 22;  // of one step over a weight's rows: 32 MB in float64

}  // namespace

const char* DeltaKindName(DeltaKind kind) {
  static const char* const kNames[] = {"lowRank", "sparse", "dense", "spectral"};
  return kNames[static_cast<int>(kind)];
}

DeltaPart DeltaPart::LowRank(int64_t matrix, at::Tensor a, at::Tensor b, double scale) {
  DeltaPart part;
  part.kind = DeltaKind::kLowRank;
  part.matrix = matrix;
  part.a = std::move(a);
  part.b = std::move(b);
  part.scale = scale;
  return part;
}
DeltaPart DeltaPart::Sparse(int64_t matrix, at::Tensor row_offsets, at::Tensor columns, at::Tensor values,
                            double scale) {
  DeltaPart part;
  part.kind = DeltaKind::kSparse;
  part.matrix = matrix;
  part.row_offsets = std::move(row_offsets);
  part.columns = std::move(columns);
  part.values = std::move(values);
  part.scale = scale;
  return part;
}
DeltaPart DeltaPart::Dense(int64_t matrix, at::Tensor values, double scale) {
  DeltaPart part;
  part.kind = DeltaKind::kDense;
  part.matrix = matrix;
  part.values = std::move(values);
  part.scale = scale;
  return part;
}
DeltaPart DeltaPart::Spectral(int64_t matrix, at::Tensor u, at::Tensor sigma, at::Tensor v, at::Tensor values,
                              double scale) {
  DeltaPart part;
  part.kind = DeltaKind::kSpectral;
  part.matrix = matrix;
  part.a = std::move(v);
  part.b = std::move(u);
  part.sigma = std::move(sigma);
  part.values = std::move(values);
  part.scale = scale;
  return part;
}

int64_t DeltaPart::bytes() const {
  int64_t total = 0;
  for (const at::Tensor& t : {row_offsets, columns, values}) {
    if (t.defined()) total += static_cast<int64_t>(t.nbytes());
  }
  if (kind == DeltaKind::kLowRank) total += static_cast<int64_t>(a.nbytes() + b.nbytes());
  return total;
}

std::vector<at::Tensor> DeltaPart::trainable() const {
  if (kind == DeltaKind::kLowRank) return {a, b};
  return {values};
}

at::Tensor DeltaPart::Materialise(int64_t out, int64_t in) const {
  switch (kind) {
    case DeltaKind::kLowRank:
      return at::mm(b, a).mul_(scale);
    case DeltaKind::kSpectral:
      return at::mm(b * (sigma * values), a).mul_(scale);
    case DeltaKind::kDense:
      return values * scale;
    default:
      break;
  }
  at::Tensor dense = at::zeros({out, in}, values.options());
  const at::Tensor counts = row_offsets.narrow(0, 1, out) - row_offsets.narrow(0, 0, out);
  const at::Tensor rows = at::repeat_interleave(at::arange(out, at::kLong), counts.to(at::kLong));
  dense.view({-1}).index_copy_(0, rows * in + columns.to(at::kLong), values * scale);
  return dense;
}

void DeltaPart::AddRows(int64_t first, double factor, at::Tensor rows) const {
  const int64_t count = rows.size(0), width = rows.size(1);
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  switch (kind) {
    case DeltaKind::kLowRank:
      rows.addmm_(wide(b.narrow(0, first, count)), wide(a), 1, factor * scale);
      return;
    case DeltaKind::kSpectral:
      rows.addmm_(wide(b.narrow(0, first, count)) * (wide(sigma) * wide(values)), wide(a), 1, factor * scale);
      return;
    case DeltaKind::kDense:
      rows.add_(wide(values.narrow(0, first, count)), factor * scale);
      return;
    case DeltaKind::kSparse:
      break;
  }
  const int32_t* begin = row_offsets.const_data_ptr<int32_t>() + first;
  const int32_t* column = columns.const_data_ptr<int32_t>();
  const at::Tensor change = wide(values.narrow(0, begin[0], begin[count] - begin[0]));
  const double* value = change.const_data_ptr<double>();
  double* out = rows.mutable_data_ptr<double>();
  for (int64_t r = 0; r < count; ++r) {
    for (int32_t k = begin[r]; k < begin[r + 1]; ++k) {
      out[r * width + column[k]] += factor * scale * value[k - begin[0]];
    }
  }
}

int64_t Delta::bytes() const {
  int64_t total = 0;
  for (const DeltaPart& part : parts) total += part.bytes();
  return total;
}

bool Delta::Only(DeltaKind kind) const {
  return std::all_of(parts.begin(), parts.end(), [&](const DeltaPart& part) { return part.kind == kind; });
}

void Delta::Check(const Model& model) const {
  const DeltaPart* previous = nullptr;
  for (const DeltaPart& part : parts) {
    if (part.matrix < 0 || part.matrix >= static_cast<int64_t>(model.tensors().size())) {
      throw Error("DELTA_INVALID", "matrix id " + std::to_string(part.matrix) + "; the model has ids 0 to " +
                                       std::to_string(model.tensors().size() - 1));
    }
    const MatrixInfo& info = model.tensors()[part.matrix];
    if (previous != nullptr && (part.matrix < previous->matrix ||
                                (part.matrix == previous->matrix && part.kind <= previous->kind))) {
      throw Error("DELTA_INVALID", "matrix \"" + info.name + "\" is named twice or out of order");
    }
    previous = &part;
    CheckShapes(part, info);
    if (!std::isfinite(part.scale))
      throw Error("DELTA_INVALID", "\"" + info.name + "\": the scale is not finite");
    CheckValues(part, info, model.activation());
    if (part.kind == DeltaKind::kSparse) CheckPattern(part, info);
  }
}

void Fork::Changed() { slot = std::make_shared<MaterialisedSlot>(); }

int64_t Fork::own_bytes() const {
  std::set<const Delta*> seen;
  int64_t total = 0;
  for (const AppliedDelta& applied : stack) {
    if (seen.insert(applied.delta.get()).second) total += applied.delta->bytes();
  }
  const auto materialised = slot ? slot->get() : nullptr;
  return total + (materialised ? materialised->bytes() : 0);
}

void Fork::AddChanges(int64_t matrix, int64_t first, at::Tensor rows) const {
  for (const AppliedDelta& applied : HostStack(stack)) {
    for (const DeltaPart& part : applied.delta->parts) {
      if (part.matrix == matrix) part.AddRows(first, applied.scale, rows);
    }
  }
}

at::Tensor Fork::EffectiveWeight(int64_t matrix) const {
  const MatrixInfo& info = model->tensors().at(matrix);
  const at::Tensor base = model->Weight(matrix);
  at::Tensor weight = at::empty({info.out, info.in}, model->options());
  for (const auto& [first, count] : RowBlocks(info.out, info.in)) {
    at::Tensor rows = base.narrow(0, first, count).to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
    AddChanges(matrix, first, rows);
    weight.narrow(0, first, count).copy_(rows);
  }
  return weight;
}

std::vector<std::pair<int64_t, int64_t>> RowBlocks(int64_t rows, int64_t width) {
  const int64_t most = std::max<int64_t>(1, kBlockValues / std::max<int64_t>(1, width));
  std::vector<std::pair<int64_t, int64_t>> blocks;
  for (int64_t first = 0; first < rows; first += most)
    blocks.push_back({first, std::min(most, rows - first)});
  return blocks;
}

}  // namespace selfedit
