#include "core/materialised.h"

#include <algorithm>

#include "core/accelerator.h"
#include "core/host_delta.h"

namespace selfedit {
namespace {

// Which rows a part changes.
void MarkRows(const DeltaPart& part, int64_t out, std::vector<bool>* rows) {
  switch (part.kind) {
    case DeltaKind::kSparse: {
      const int32_t* offsets = part.row_offsets.const_data_ptr<int32_t>();
      for (int64_t i = 0; i < out; ++i) {
        if (offsets[i + 1] > offsets[i]) (*rows)[i] = true;
      }
      return;
    }
    case DeltaKind::kDense: {
      const at::Tensor changed = part.values.ne(0).any(1).contiguous();
      const bool* flags = changed.const_data_ptr<bool>();
      for (int64_t i = 0; i < out; ++i) {
        if (flags[i]) (*rows)[i] = true;
      }
      return;
    }
    default:
      std::fill(rows->begin(), rows->end(), true);
  }
}

// Rows [begin, end) of scale * D added to weight [end - begin, in].
void AddRows(const DeltaPart& part, double scale, int64_t begin, int64_t end, const at::Tensor& weight) {
  const double factor = part.scale * scale;
  const int64_t count = end - begin;
  const at::Device device = weight.device();
  switch (part.kind) {
    case DeltaKind::kLowRank:
      weight.addmm_(part.b.narrow(0, begin, count).to(device), part.a.to(device), 1, factor);
      return;
    case DeltaKind::kSpectral:
      weight.addmm_((part.b.narrow(0, begin, count) * (part.sigma * part.values)).to(device),
                    part.a.to(device), 1, factor);
      return;
    case DeltaKind::kDense:
      weight.add_(part.values.narrow(0, begin, count).to(device), factor);
      return;
    case DeltaKind::kSparse:
      break;
  }
  const at::Tensor offsets = part.row_offsets;
  const int32_t* starts = offsets.const_data_ptr<int32_t>();
  const int64_t first = starts[begin], values = starts[end] - first;
  const at::Tensor counts = offsets.narrow(0, begin + 1, count) - offsets.narrow(0, begin, count);
  const at::Tensor rows = at::repeat_interleave(at::arange(count, at::kLong), counts.to(at::kLong));
  const at::Tensor places = rows * weight.size(1) + part.columns.narrow(0, first, values).to(at::kLong);
  weight.view({-1}).index_add_(0, places.to(device),
                               (part.values.narrow(0, first, values) * factor).to(device));
}

}  // namespace

std::shared_ptr<const Materialised> Materialised::Make(const Model& model, const DeltaStack& stack,
                                                       const JobControl& control) {
  auto made = std::make_shared<Materialised>();
  if (OnDevice(model)) {
    CudaAccelerator().within(model, [&] { made->Copy(model, stack, control); });
  } else {
    made->Copy(model, stack, control);
  }
  return made;
}

void Materialised::Copy(const Model& model, const DeltaStack& given, const JobControl& control) {
  const DeltaStack stack = HostStack(given);  // which rows they change is asked on the host
  const auto& matrices = model.matrices();
  runs_.resize(matrices.size());
  for (const MatrixInfo& info : matrices) rows_.push_back(info.out);
  for (size_t id = 0; id < matrices.size(); ++id) {
    control.Check();
    const MatrixInfo& info = matrices[id];
    std::vector<bool> rows(info.out, false);
    for (const AppliedDelta& applied : stack) {
      for (const DeltaPart& part : applied.delta->parts) {
        if (part.matrix == static_cast<int64_t>(id)) MarkRows(part, info.out, &rows);
      }
    }
    const Linear& base = model.linear(static_cast<int64_t>(id));
    auto touched = [&](int64_t begin) {
      const int64_t end = std::min(info.out, begin + kCopiedRows);
      return std::find(rows.begin() + begin, rows.begin() + end, true) != rows.begin() + end;
    };
    for (int64_t begin = 0; begin < info.out; begin += kCopiedRows) {
      if (!touched(begin)) continue;
      int64_t end = begin;
      while (end < info.out && touched(end)) end = std::min(info.out, end + kCopiedRows);
      at::Tensor weight = base.weight().narrow(0, begin, end - begin).to(model.activation(), false, true);
      for (const AppliedDelta& applied : stack) {
        for (const DeltaPart& part : applied.delta->parts) {
          if (part.matrix == static_cast<int64_t>(id)) AddRows(part, applied.scale, begin, end, weight);
        }
      }
      std::optional<at::Tensor> bias;
      if (base.bias()) bias = base.bias()->narrow(0, begin, end - begin);
      runs_[id].push_back({begin, end, Linear(weight.to(base.weight().scalar_type()), bias)});
      begin = end - kCopiedRows;
    }
  }
}

bool Materialised::whole(int64_t matrix) const {
  const auto& runs = runs_[matrix];
  return runs.size() == 1 && runs[0].begin == 0 && runs[0].end == rows_[matrix];
}

int64_t Materialised::bytes() const {
  int64_t total = 0;
  for (const auto& runs : runs_) {
    for (const Run& run : runs) {
      total += run.linear.bytes();
      if (run.linear.bias())
        total -= static_cast<int64_t>(run.linear.bias()->nbytes());  // a view of the model's
    }
  }
  return total;
}

bool MaterialisingPays(const Model& model, const DeltaStack& stack, int64_t steps) {
  if (model.dtype() == Dtype::kBFloat16) return false;
  const int64_t element = static_cast<int64_t>(at::elementSize(model.activation()));
  double each_step = 0, once = 0;
  std::vector<bool> counted(model.matrices().size(), false);
  for (const AppliedDelta& applied : stack) {
    for (const DeltaPart& part : applied.delta->parts) {
      if (part.matrix >= static_cast<int64_t>(counted.size())) continue;
      const MatrixInfo& info = model.matrices()[part.matrix];
      double values = static_cast<double>(part.bytes());
      if (part.kind == DeltaKind::kSpectral)
        values += static_cast<double>((info.in + info.out) * part.rank() * element);
      each_step += values;
      if (counted[part.matrix]) continue;
      counted[part.matrix] = true;
      // Read the weight, write the copy, read and write it once more for packing, and read the packed one.
      once += 5.0 * static_cast<double>(info.out * info.in * element);
    }
  }
  return each_step * static_cast<double>(steps) > once;
}

}  // namespace selfedit
