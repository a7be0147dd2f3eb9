#include "core/edit_space.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/host_delta.h"
#include "core/parts.h"
#include "core/philox.h"
#include "core/spectral.h"
#include "core/support.h"
#include "core/svd.h"

namespace selfedit {
namespace {

// Low-rank rows of one side of a gradient block, or of a lowRank block's two sides.
int64_t BasisRank(const SpaceChoice& choice) {
  if (choice.kind == SpaceKind::kLowRank) return choice.size;
  return choice.kind == SpaceKind::kGradient ? (choice.size - 1) / 2 : 0;
}

// [rows, width] of the flat basis from `offset`; moves the offset on.
at::Tensor Rows(const at::Tensor& flat, int64_t* offset, int64_t rows, int64_t width) {
  const at::Tensor view = flat.narrow(0, *offset, rows * width).view({rows, width});
  *offset += rows * width;
  return view;
}

struct GradientBasis {
  at::Tensor q, p, q_out, p_out;  // [k, in] twice, [k, out] twice
};
GradientBasis BasisOf(const at::Tensor& flat, const SpaceBlock& block, const MatrixInfo& info) {
  const int64_t k = BasisRank(block);
  int64_t offset = block.basis;
  GradientBasis basis;
  basis.q = Rows(flat, &offset, k, info.in);
  basis.p = Rows(flat, &offset, k, info.in);
  basis.q_out = Rows(flat, &offset, k, info.out);
  basis.p_out = Rows(flat, &offset, k, info.out);
  return basis;
}

at::Tensor Entries(const double* vector, int64_t count, const at::TensorOptions& options) {
  at::Tensor entries = at::empty({count}, at::kDouble);
  std::copy_n(vector, count, entries.mutable_data_ptr<double>());
  return entries.to(options.dtype());
}

const DeltaPart* Find(const Delta& delta, int64_t matrix, DeltaKind kind) {
  for (const DeltaPart& part : delta.parts) {
    if (part.matrix == matrix && part.kind == kind) return &part;
  }
  return nullptr;
}

const DeltaPart& MaterialPart(const Delta& material, const SpaceBlock& block, const MatrixInfo& info,
                              DeltaKind kind) {
  const DeltaPart* part = Find(material, block.matrix, kind);
  if (part == nullptr) {
    throw Error("DELTA_SHAPE", "\"" + info.name + "\": the material of a " + SpaceKindName(block.kind) +
                                   " space has no " + DeltaKindName(kind) + " part for it");
  }
  const bool counted = kind == DeltaKind::kSparse || kind == DeltaKind::kSpectral;
  if (counted && part->values.numel() != block.size) {
    throw Error("DELTA_SHAPE", "\"" + info.name + "\": the material has " +
                                   std::to_string(part->values.numel()) + " values; expected " +
                                   std::to_string(block.size));
  }
  return *part;
}

// The parts of one matrix that are modulated. Throws DELTA_SHAPE when there is none.
std::vector<const DeltaPart*> Modulated(const Delta& material, const SpaceBlock& block,
                                        const MatrixInfo& info) {
  std::vector<const DeltaPart*> parts;
  for (const DeltaPart& part : material.parts) {
    if (part.matrix == block.matrix) parts.push_back(&part);
  }
  if (parts.empty()) {
    throw Error("DELTA_SHAPE", "\"" + info.name +
                                   "\": the inner loop's delta has no part for it; expected a "
                                   "change to modulate");
  }
  return parts;
}

// What of a part is linear in its change: B, or the values.
const at::Tensor& LinearValues(const DeltaPart& part) {
  return part.kind == DeltaKind::kLowRank ? part.b : part.values;
}

double Dot(const at::Tensor& a, const at::Tensor& b) {
  return at::dot(a.reshape(-1).to(at::kDouble), b.reshape(-1).to(at::kDouble)).item<double>();
}

// Positions of the support's values by descending magnitude; ties keep the lower index.
std::vector<int64_t> ByMagnitude(const at::Tensor& values) {
  const at::Tensor wide = values.to(at::kDouble).contiguous();
  const double* v = wide.const_data_ptr<double>();
  std::vector<int64_t> order(wide.numel());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return std::abs(v[i]) > std::abs(v[j]); });
  return order;
}
double SignOf(double value) { return value < 0 ? -1.0 : 1.0; }

// A gradient block's D (I + Q Z P^T) and what it is made of.
struct Transformed {
  double factor;            // e^{z_0}
  at::Tensor z, z_out;      // [k] each
  at::Tensor m;             // D Q, [out, k]
  at::Tensor zp;            // Z P^T, [k, in]
  at::Tensor m_out, e_out;  // Q'^T D Q [k, k]; Q'^T D (I + Q Z P^T) [k, in]
};
Transformed Transform(const at::Tensor& d, const GradientBasis& basis, const double* z) {
  const int64_t k = basis.q.size(0);
  Transformed t;
  t.factor = std::exp(z[0]);
  t.z = Entries(z + 1, k, d.options());
  t.z_out = Entries(z + 1 + k, k, d.options());
  t.m = at::mm(d, basis.q.t());
  t.zp = basis.p * t.z.unsqueeze(1);
  t.m_out = at::mm(basis.q_out, t.m);
  t.e_out = at::mm(basis.q_out, d) + at::mm(t.m_out, t.zp);
  return t;
}

void ComposeGradient(const DeltaPart& step, const GradientBasis& basis, const double* z,
                     std::vector<DeltaPart>* parts) {
  const Transformed t = Transform(step.values, basis, z);
  parts->push_back(DeltaPart::Dense(step.matrix, step.values, step.scale * t.factor));
  if (basis.q.size(0) == 0) return;
  const at::Tensor a = at::cat({t.zp, t.e_out * t.z_out.unsqueeze(1)}, 0);
  const at::Tensor b = at::cat({t.m, basis.p_out.t()}, 1).contiguous();
  parts->push_back(DeltaPart::LowRank(step.matrix, a, b, step.scale * t.factor));
}

// Adds to `sum` when it is defined.
void AddTo(const at::Tensor& sum, const at::Tensor& term) {
  if (sum.defined() && sum.numel() > 0) sum.add_(term);
}

void PullBackGradient(const DeltaPart& step, const GradientBasis& basis, const double* z,
                      const Delta& gradient, double* dz, const GradientBasis* dbasis) {
  const int64_t k = basis.q.size(0);
  const DeltaPart* dense = Find(gradient, step.matrix, DeltaKind::kDense);
  dz[0] += Dot(dense->values, step.values);
  if (k == 0) return;
  const DeltaPart* low = Find(gradient, step.matrix, DeltaKind::kLowRank);
  const Transformed t = Transform(step.values, basis, z);
  const at::Tensor da = low->a.narrow(0, 0, k), da_out = low->a.narrow(0, k, k);
  const at::Tensor db = low->b.narrow(1, 0, k), db_out = low->b.narrow(1, k, k);
  dz[0] += Dot(low->b, at::cat({t.m, basis.p_out.t()}, 1));  // B enters linearly
  const at::Tensor de = da_out * t.z_out.unsqueeze(1);       // dLoss/d(Q'^T H)
  const at::Tensor dzp = da + at::mm(t.m_out.t(), de);
  const at::Tensor dm_out = at::mm(de, t.zp.t());
  for (int64_t j = 0; j < k; ++j) {
    dz[1 + j] += Dot(dzp[j], basis.p[j]);
    dz[1 + k + j] += Dot(da_out[j], t.e_out[j]);
  }
  if (dbasis == nullptr) return;
  const at::Tensor dm = db + at::mm(basis.q_out.t(), dm_out);
  AddTo(dbasis->q, at::mm(dm.t(), step.values));
  AddTo(dbasis->p, dzp * t.z.unsqueeze(1));
  AddTo(dbasis->q_out, at::mm(de, step.values.t()) + at::mm(dm_out, t.m.t()));
  AddTo(dbasis->p_out, db_out.t());
}

// Root mean square of a matrix's entries, times the root of its larger side: the singular values of a
// matrix of such entries are about that large.
double TypicalSingularValue(const at::Tensor& weight) {
  return weight.to(at::kDouble).norm().item<double>() /
         std::sqrt(static_cast<double>(std::min(weight.size(0), weight.size(1))));
}
double TypicalEntry(const at::Tensor& weight) {
  return weight.to(at::kDouble).norm().item<double>() / std::sqrt(static_cast<double>(weight.numel()));
}

void CheckChoice(const SpaceChoice& choice, const MatrixInfo& info) {
  const int64_t smaller = std::min(info.out, info.in);
  int64_t most = 1;
  switch (choice.kind) {
    case SpaceKind::kSpectral:
    case SpaceKind::kLowRank:
      most = smaller;
      break;
    case SpaceKind::kSparse:
      most = info.out * info.in;
      break;
    case SpaceKind::kGradient:
      most = 1 + 2 * smaller;
      break;
    case SpaceKind::kModulated:
      break;
  }
  const bool matrix_only = choice.kind != SpaceKind::kModulated && choice.kind != SpaceKind::kSparse;
  if (matrix_only && info.vector()) {
    throw Error("TARGET_UNKNOWN", "\"" + info.name + "\" is a vector; a " + SpaceKindName(choice.kind) +
                                      " space needs a matrix");
  }
  const bool odd = choice.kind != SpaceKind::kGradient || choice.size % 2 == 1;
  if (choice.size >= 1 && choice.size <= most && odd) return;
  throw Error("OPTION_INVALID", "\"" + info.name + "\": " + std::to_string(choice.size) + " entries of a " +
                                    SpaceKindName(choice.kind) + " space; expected 1 to " +
                                    std::to_string(most) + (odd ? "" : ", an odd number"));
}

}  // namespace

const char* SpaceKindName(SpaceKind kind) {
  static const char* const kNames[] = {"spectral", "lowRank", "sparse", "gradient", "modulated"};
  return kNames[static_cast<int>(kind)];
}

EditSpace::EditSpace(const Model& model, const std::vector<SpaceChoice>& choices) {
  if (choices.empty()) throw Error("TARGET_UNKNOWN", "no matrix is chosen for the edit");
  int64_t previous = -1;
  for (const SpaceChoice& choice : choices) {
    if (choice.matrix <= previous || choice.matrix >= static_cast<int64_t>(model.tensors().size())) {
      throw Error("TARGET_UNKNOWN", "matrix ids must ascend and lie below " +
                                        std::to_string(model.tensors().size()) + "; found " +
                                        std::to_string(choice.matrix));
    }
    previous = choice.matrix;
    const MatrixInfo& info = model.tensors()[choice.matrix];
    CheckChoice(choice, info);
    SpaceBlock block{choice};
    block.offset = size_;
    block.basis = basis_size_;
    if (choice.kind == SpaceKind::kLowRank) block.unit = TypicalSingularValue(model.Weight(choice.matrix));
    if (choice.kind == SpaceKind::kSparse) block.unit = TypicalEntry(model.Weight(choice.matrix));
    size_ += choice.size;
    const int64_t sides = choice.kind == SpaceKind::kGradient ? 2 : 1;
    basis_size_ += sides * BasisRank(choice) * (info.in + info.out);
    blocks_.push_back(block);
  }
}

bool EditSpace::Has(SpaceKind kind) const {
  return std::any_of(blocks_.begin(), blocks_.end(), [&](const SpaceBlock& b) { return b.kind == kind; });
}

at::Tensor EditSpace::FirstBasis(const Model& model, uint64_t key) const {
  const at::Tensor flat = at::empty({basis_size_}, model.options());
  for (const SpaceBlock& block : blocks_) {
    const int64_t rank = BasisRank(block);
    if (rank == 0) continue;
    const MatrixInfo& info = model.tensors()[block.matrix];
    const bool gradient = block.kind == SpaceKind::kGradient;
    const std::vector<int64_t> widths = gradient ? std::vector<int64_t>{info.in, info.in, info.out, info.out}
                                                 : std::vector<int64_t>{info.in, info.out};
    int64_t offset = block.basis;
    for (size_t side = 0; side < widths.size(); ++side) {
      const uint64_t own = MixKey(MixKey(key, static_cast<uint64_t>(block.matrix)), side);
      const at::Tensor normal = KeyedNormal({widths[side], rank}, own);
      Rows(flat, &offset, rank, widths[side]).copy_(std::get<0>(at::linalg_qr(normal)).t());
    }
  }
  return flat;
}

DeltaPtr EditSpace::Compose(const Model& model, const Delta& material, const double* vector,
                            const at::Tensor& basis) const {
  for (int64_t i = 0; i < size_; ++i) {
    if (std::isfinite(vector[i])) continue;
    throw Error("INPUT_INVALID", "entry " + std::to_string(i) + " of the vector is " +
                                     std::to_string(vector[i]) + "; expected finite numbers");
  }
  std::vector<DeltaPart> parts;
  for (const SpaceBlock& block : blocks_) {
    const MatrixInfo& info = model.tensors()[block.matrix];
    const double* z = vector + block.offset;
    switch (block.kind) {
      case SpaceKind::kSpectral: {
        DeltaPart part = MaterialPart(material, block, info, DeltaKind::kSpectral);
        part.values = Entries(z, block.size, model.options());
        part.scale = 1;
        parts.push_back(part);
        break;
      }
      case SpaceKind::kLowRank: {
        int64_t offset = block.basis;
        const at::Tensor a = Rows(basis, &offset, block.size, info.in);
        const at::Tensor b = Rows(basis, &offset, block.size, info.out);
        const at::Tensor gains = Entries(z, block.size, model.options());
        // The basis moves under training: a copy belongs to the edit.
        parts.push_back(
            DeltaPart::LowRank(block.matrix, a.clone(), (b.t() * gains).contiguous(), block.unit));
        break;
      }
      case SpaceKind::kSparse: {
        DeltaPart part = MaterialPart(material, block, info, DeltaKind::kSparse);
        const at::Tensor directions = part.values.to(at::kDouble).contiguous();
        const at::Tensor values = at::empty({block.size}, at::kDouble);
        const std::vector<int64_t> order = ByMagnitude(directions);
        for (int64_t j = 0; j < block.size; ++j) {
          const double sign = SignOf(directions.const_data_ptr<double>()[order[j]]);
          values.mutable_data_ptr<double>()[order[j]] = sign * z[j];
        }
        part.values = values.to(model.activation());
        part.scale = block.unit;
        parts.push_back(part);
        break;
      }
      case SpaceKind::kGradient:
        ComposeGradient(MaterialPart(material, block, info, DeltaKind::kDense), BasisOf(basis, block, info),
                        z, &parts);
        break;
      case SpaceKind::kModulated:
        for (const DeltaPart* given : Modulated(material, block, info)) {
          DeltaPart part = *given;
          (part.kind == DeltaKind::kLowRank ? part.b : part.values) = LinearValues(*given) * (1 + z[0]);
          parts.push_back(part);
        }
    }
  }
  return Finished(model, std::move(parts));
}

void EditSpace::PullBack(const Model& model, const Delta& material, const double* vector,
                         const at::Tensor& basis, const Delta& gradient, double* dvector,
                         const at::Tensor& dbasis) const {
  // B or the values, of which there must be `count`: a gradient of another edit has fewer or more.
  const auto values_of = [&](const SpaceBlock& block, DeltaKind kind, int64_t count) -> const DeltaPart& {
    const DeltaPart* part = Find(gradient, block.matrix, kind);
    if (part != nullptr && LinearValues(*part).numel() == count) return *part;
    const std::string found =
        part == nullptr ? "no" : std::to_string(LinearValues(*part).numel()) + " values in its";
    throw Error("DELTA_SHAPE", "\"" + model.tensors()[block.matrix].name + "\": the gradient has " + found +
                                   " " + DeltaKindName(kind) + " part; expected " + std::to_string(count) +
                                   " values, the gradient of this edit");
  };
  for (const SpaceBlock& block : blocks_) {
    const MatrixInfo& info = model.tensors()[block.matrix];
    const double* z = vector + block.offset;
    double* dz = dvector + block.offset;
    switch (block.kind) {
      case SpaceKind::kSpectral: {
        const at::Tensor d =
            values_of(block, DeltaKind::kSpectral, block.size).values.to(at::kDouble).contiguous();
        for (int64_t j = 0; j < block.size; ++j) dz[j] += d.const_data_ptr<double>()[j];
        break;
      }
      case SpaceKind::kLowRank: {
        const DeltaPart& part = values_of(block, DeltaKind::kLowRank, info.out * block.size);
        int64_t offset = block.basis;
        Rows(basis, &offset, block.size, info.in);
        const at::Tensor b = Rows(basis, &offset, block.size, info.out);
        for (int64_t j = 0; j < block.size; ++j) dz[j] += Dot(part.b.select(1, j), b[j]);
        if (!dbasis.defined()) break;
        offset = block.basis;
        Rows(dbasis, &offset, block.size, info.in).add_(part.a);
        Rows(dbasis, &offset, block.size, info.out)
            .add_(part.b.t() * Entries(z, block.size, model.options()).unsqueeze(1));
        break;
      }
      case SpaceKind::kSparse: {
        const at::Tensor directions =
            MaterialPart(material, block, info, DeltaKind::kSparse).values.to(at::kDouble).contiguous();
        const at::Tensor d =
            values_of(block, DeltaKind::kSparse, block.size).values.to(at::kDouble).contiguous();
        const std::vector<int64_t> order = ByMagnitude(directions);
        for (int64_t j = 0; j < block.size; ++j) {
          const double sign = SignOf(directions.const_data_ptr<double>()[order[j]]);
          dz[j] += sign * d.const_data_ptr<double>()[order[j]];
        }
        break;
      }
      case SpaceKind::kGradient: {
        const DeltaPart& step = MaterialPart(material, block, info, DeltaKind::kDense);
        values_of(block, DeltaKind::kDense, step.values.numel());
        if (block.size > 1) values_of(block, DeltaKind::kLowRank, info.out * (block.size - 1));
        GradientBasis into;
        if (dbasis.defined()) into = BasisOf(dbasis, block, info);
        PullBackGradient(step, BasisOf(basis, block, info), z, gradient, dz,
                         dbasis.defined() ? &into : nullptr);
        break;
      }
      case SpaceKind::kModulated:
        for (const DeltaPart* given : Modulated(material, block, info)) {
          const at::Tensor& values = LinearValues(*given);
          dz[0] += Dot(LinearValues(values_of(block, given->kind, values.numel())), values);
        }
    }
  }
}

DeltaPtr ContextMaterial(const Model& model, const EditSpace& space, const DeltaStack& stack,
                         const Ragged& documents, const DeltaPtr& adapted, const MaterialSpec& spec,
                         const JobControl& control) {
  std::vector<int32_t> matrices;
  for (const SpaceBlock& block : space.blocks()) {
    if (block.kind == SpaceKind::kGradient || block.kind == SpaceKind::kSparse) {
      matrices.push_back(static_cast<int32_t>(block.matrix));
    }
  }
  std::vector<at::Tensor> gradients, information;
  if (!matrices.empty()) {
    if (documents.rows() == 0) throw Error("INPUT_INVALID", "the context has no document to learn from");
    CheckRagged(documents, model.config(), "document");
    gradients = WeightGradients(model, stack, documents, {}, matrices, Selection::kGradient, control);
    if (space.Has(SpaceKind::kSparse) && spec.selection == Selection::kFisher) {
      information = WeightGradients(model, stack, documents, {}, matrices, Selection::kFisher, control);
    }
  }
  const double each = 1.0 / std::max<double>(1, static_cast<double>(documents.rows()));
  const DeltaPtr inner = adapted ? HostDelta(adapted) : nullptr;
  std::vector<DeltaPart> parts;
  size_t next = 0;
  for (const SpaceBlock& block : space.blocks()) {
    control.Check();
    const MatrixInfo& info = model.tensors()[block.matrix];
    switch (block.kind) {
      case SpaceKind::kSpectral: {
        const SpectralFactors& f = FactorsOf(model, block.matrix, block.size, spec.folder);
        parts.push_back(DeltaPart::Spectral(block.matrix, f.u, f.sigma, f.v,
                                            at::zeros({block.size}, model.options()), 1));
        break;
      }
      case SpaceKind::kSparse: {
        const at::Tensor g = gradients[next];
        const at::Tensor size = information.empty() ? g.abs() : information[next];
        ++next;
        const std::vector<int64_t> support = LargestEntries(size, block.size);
        const at::Tensor index = at::empty({block.size}, at::kLong);
        std::copy(support.begin(), support.end(), index.mutable_data_ptr<int64_t>());
        const at::Tensor sign = at::where(at::take(g, index) > 0, -1.0, 1.0);
        parts.push_back(SparseFromIndices(block.matrix, info.out, info.in, support,
                                          (at::take(size, index) * sign).to(model.activation())));
        break;
      }
      case SpaceKind::kGradient:
        parts.push_back(DeltaPart::Dense(block.matrix, gradients[next++].mul_(-spec.rate * each), 1));
        break;
      case SpaceKind::kModulated:
        if (!inner) throw Error("DELTA_SHAPE", "a modulated space needs the inner loop's delta; found none");
        for (const DeltaPart* part : Modulated(*inner, block, info)) parts.push_back(*part);
        break;
      case SpaceKind::kLowRank:
        break;
    }
  }
  return Finished(model, std::move(parts));
}

}  // namespace selfedit
