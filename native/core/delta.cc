#include "core/delta.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/model.h"
#include "core/stored.h"
#include "format/safetensors_writer.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

std::string KeyOf(const MatrixInfo& info, char factor) {
  return "base_model.model." + info.name + ".lora_" + factor + ".weight";
}

std::string ShapeText(const at::Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

}  // namespace

int64_t Delta::bytes() const {
  int64_t total = 0;
  for (const LowRankPart& part : low_rank) total += static_cast<int64_t>(part.a.nbytes() + part.b.nbytes());
  return total;
}

void Delta::Check(const Model& model) const {
  int64_t previous = -1;
  for (const LowRankPart& part : low_rank) {
    if (part.matrix < 0 || part.matrix >= static_cast<int64_t>(model.matrices().size())) {
      throw Error("DELTA_INVALID", "matrix id " + std::to_string(part.matrix) + "; the model has ids 0 to " +
                                       std::to_string(model.matrices().size() - 1));
    }
    const MatrixInfo& info = model.matrices()[part.matrix];
    if (part.matrix <= previous)
      throw Error("DELTA_INVALID", "matrix \"" + info.name + "\" is named twice or out of order");
    previous = part.matrix;
    if (part.a.dim() != 2 || part.b.dim() != 2 || part.a.size(0) < 1 || part.a.size(1) != info.in ||
        part.b.size(0) != info.out || part.b.size(1) != part.a.size(0)) {
      throw Error("DELTA_SHAPE", "\"" + info.name + "\": A is " + ShapeText(part.a) + " and B is " +
                                     ShapeText(part.b) + ", the base needs A [r, " + std::to_string(info.in) +
                                     "] and B [" + std::to_string(info.out) + ", r] with r ≥ 1");
    }
    if (part.a.scalar_type() != model.activation() || part.b.scalar_type() != model.activation()) {
      // The products read the values as the model's own type.
      throw Error("DELTA_INVALID", "\"" + info.name + "\" holds " + c10::toString(part.a.scalar_type()) +
                                       " values, the model computes in " + c10::toString(model.activation()));
    }
    if (!std::isfinite(part.scale))
      throw Error("DELTA_INVALID", "\"" + info.name + "\": the scale is not finite");
    if (!at::isfinite(part.a).all().item<bool>() || !at::isfinite(part.b).all().item<bool>()) {
      throw Error("DELTA_INVALID",
                  "\"" + info.name + "\" holds NaN or infinite values; expected finite ones");
    }
  }
}

void SaveDelta(const Delta& delta, const Model& model, const std::string& path) {
  std::vector<TensorToWrite> tensors;
  const DType dtype = model.activation() == at::kDouble ? DType::kF64 : DType::kF32;
  for (const LowRankPart& part : delta.low_rank) {
    const MatrixInfo& info = model.matrices()[part.matrix];
    tensors.push_back({KeyOf(info, 'A'), dtype, part.a.sizes().vec(), part.a.const_data_ptr()});
    tensors.push_back({KeyOf(info, 'B'), dtype, part.b.sizes().vec(), part.b.const_data_ptr()});
  }
  WriteSafetensors(path, tensors, {{"format", "pt"}});
}

DeltaPtr LoadDelta(const Model& model, const std::string& path, const std::vector<double>& scale_of_matrix) {
  const auto file = TensorFile::Open(path, Format::kSafetensors);
  auto delta = std::make_shared<Delta>();
  std::set<std::string> used;
  auto read = [&](const std::string& key) {
    const TensorInfo* info = file->Find(key);
    if (info == nullptr) return at::Tensor();
    used.insert(key);
    CheckReal(*file, *info);
    if (info->shape.size() != 2)
      throw Error("DELTA_SHAPE", path + ": \"" + key + "\" must have two dimensions");
    at::Tensor out = at::empty(info->shape, model.options());
    if (info->dtype == DType::kF64 && model.activation() == at::kDouble) {
      std::copy_n(file->Data(*info), info->bytes, static_cast<uint8_t*>(out.mutable_data_ptr()));
    } else {
      at::Tensor narrow = at::empty(info->shape, at::kFloat);
      Dequantize(*info, file->Data(*info), 0, info->Rows(), narrow.mutable_data_ptr<float>());
      out.copy_(narrow);
    }
    return out;
  };
  for (size_t id = 0; id < model.matrices().size(); ++id) {
    const MatrixInfo& info = model.matrices()[id];
    at::Tensor a = read(KeyOf(info, 'A')), b = read(KeyOf(info, 'B'));
    if (!a.defined() && !b.defined()) continue;
    if (!a.defined() || !b.defined()) {
      throw Error("TENSOR_MISSING",
                  path + ": \"" + KeyOf(info, a.defined() ? 'B' : 'A') + "\" is missing beside its twin");
    }
    delta->low_rank.push_back({static_cast<int64_t>(id), a, b, scale_of_matrix.at(id)});
  }
  std::string extra;
  int64_t count = 0;
  for (const TensorInfo& info : file->tensors()) {
    if (used.count(info.name) == 0 && ++count <= 12) extra += (extra.empty() ? "" : ", ") + info.name;
  }
  if (count > 0) {
    throw Error("TENSOR_UNEXPECTED",
                path + ": " + std::to_string(count) + " key(s) that no matrix of the model has: " + extra);
  }
  delta->Check(model);
  return delta;
}

int64_t Fork::own_bytes() const {
  std::set<const Delta*> seen;
  int64_t total = 0;
  for (const AppliedDelta& applied : stack) {
    if (seen.insert(applied.delta.get()).second) total += applied.delta->bytes();
  }
  return total;
}

at::Tensor Fork::EffectiveWeight(int64_t matrix) const {
  at::Tensor weight = model->linear(matrix).weight().to(model->activation()).clone();
  for (const AppliedDelta& applied : stack) {
    for (const LowRankPart& part : applied.delta->low_rank) {
      if (part.matrix == matrix) weight.addmm_(part.b, part.a, 1, part.scale * applied.scale);
    }
  }
  return weight;
}

}  // namespace selfedit
