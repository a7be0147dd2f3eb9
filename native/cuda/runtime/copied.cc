#include "cuda/runtime/copied.h"

#include <algorithm>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {

CopiedOverlay::CopiedOverlay(const DeviceModel& model, const Copies& copies, int64_t segments)
    : model_(model), segments_(segments) {
  for (const auto& copy : copies) {
    for (size_t id = 0; copy && id < model.host().matrices().size(); ++id) {
      const auto& runs = copy->runs(static_cast<int64_t>(id));
      if (runs.empty()) continue;
      Runs& wanted = runs_[static_cast<int64_t>(id)];
      wanted.count = std::max(wanted.count, static_cast<int64_t>(runs.size()));
      for (const Materialised::Run& run : runs) wanted.most = std::max(wanted.most, run.end - run.begin);
    }
  }
  int64_t tables = 0;
  for (auto& [id, runs] : runs_) {
    runs.table = tables;
    tables += runs.count;
  }
  if (empty()) return;
  addresses_host_ = at::zeros({tables, segments}, at::kLong);
  addresses_ = at::zeros({tables, segments}, model.options(at::kLong));
  rows_host_ = at::zeros({tables, 2, segments}, at::kInt);
  rows_ = at::zeros({tables, 2, segments}, model.options(at::kInt));
}

void CopiedOverlay::Set(int64_t segment, const Materialised* copy) {
  for (const auto& [id, wanted] : runs_) {
    for (int64_t i = 0; i < wanted.count; ++i) {
      const bool present = copy != nullptr && i < static_cast<int64_t>(copy->runs(id).size());
      const void* address = nullptr;
      int32_t* rows = rows_host_.mutable_data_ptr<int32_t>() + (wanted.table + i) * 2 * segments_ + segment;
      if (present) {
        const Materialised::Run& run = copy->runs(id)[i];
        address = run.linear.weight().const_data_ptr();
        rows[0] = static_cast<int32_t>(run.begin);
        rows[segments_] = static_cast<int32_t>(run.end - run.begin);
      }
      addresses_host_.mutable_data_ptr<int64_t>()[(wanted.table + i) * segments_ + segment] =
          static_cast<int64_t>(reinterpret_cast<intptr_t>(address));
    }
  }
}

void CopiedOverlay::Upload() {
  if (empty()) return;
  UploadInto(addresses_host_, addresses_);
  UploadInto(rows_host_, rows_);
}

void CopiedOverlay::Forward(int64_t matrix, int64_t rows, const void* x, void* y) const {
  const auto found = runs_.find(matrix);
  if (found == runs_.end()) return;
  const MatrixInfo& info = model_.host().matrices()[matrix];
  const at::Tensor& bias = model_.layer(info.layer).bias[static_cast<int>(info.module)];
  for (int64_t i = 0; i < found->second.count; ++i) {
    const int64_t table = found->second.table + i;
    const int32_t* first = rows_.const_data_ptr<int32_t>() + table * 2 * segments_;
    CopiedRows copied;
    copied.weights =
        reinterpret_cast<const void* const*>(addresses_.const_data_ptr<int64_t>() + table * segments_);
    copied.first = first;
    copied.count = first + segments_;
    copied.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
    copied.most = found->second.most;
    copied.in = info.in;
    copied.out = info.out;
    Launch(CopiedRowsForward, model_.type(), Segments{offsets_, segments_, rows}, copied, x, y);
  }
}

}  // namespace selfedit::cuda
