#include "cuda/runtime/change.h"

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

at::Tensor IntTensor(const std::vector<int32_t>& values) {
  at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int32_t>());
  return t;
}

}  // namespace

void ChangeForward(Type type, Type y_type, const Segments& segments, const Change& change, const void* x,
                   void* u, void* y) {
  switch (change.kind) {
    case DeltaKind::kSparse:
      Launch(SparseForward, type, y_type, segments, change.sparse, x, y);
      return;
    case DeltaKind::kDense:
      Launch(DenseForward, type, y_type, segments, change.dense, x, y);
      return;
    default:
      Launch(LowRankShrink, type, segments, change.low_rank, x, u);
      Launch(LowRankExpand, type, y_type, segments, change.low_rank, static_cast<const void*>(u), y);
  }
}

void ChangeBackward(Type type, const Segments& segments, const Change& change, const ChangeGradient* gradient,
                    const void* x, const void* dy, const void* u, void* v, void* dx) {
  switch (change.kind) {
    case DeltaKind::kSparse:
      if (dx != nullptr) Launch(SparseBackwardInput, type, segments, change.sparse, dy, dx);
      if (gradient != nullptr) {
        Launch(SparseBackwardValues, type, segments, change.sparse, x, dy, gradient->values,
               gradient->accumulate);
      }
      return;
    case DeltaKind::kDense:
      if (dx != nullptr) Launch(DenseBackwardInput, type, segments, change.dense, dy, dx);
      if (gradient != nullptr) {
        Launch(DenseBackwardValues, type, segments, change.dense, x, dy, gradient->values,
               gradient->accumulate);
      }
      return;
    default:
      if (dx == nullptr && gradient == nullptr) return;
      Launch(LowRankShrinkBackward, type, segments, change.low_rank, dy, v);
      if (dx != nullptr)
        Launch(LowRankExpandBackward, type, segments, change.low_rank, static_cast<const void*>(v), dx);
      if (gradient == nullptr) return;
      LowRankGradient to = gradient->low_rank;
      to.accumulate = gradient->accumulate;
      Launch(LowRankBackwardValues, type, segments, change.low_rank, x, dy, u, static_cast<const void*>(v),
             to);
  }
}

void ChangeLookup(Type type, const Segments& segments, const Change& change, const int32_t* token, void* v,
                  void* y) {
  switch (change.kind) {
    case DeltaKind::kSparse:
      Launch(SparseLookup, type, segments, change.sparse, token, y);
      return;
    case DeltaKind::kDense:
      Launch(DenseLookup, type, segments, change.dense, token, y);
      return;
    default:
      Launch(LowRankLookup, type, segments, change.low_rank, token, v);
      Launch(LowRankExpandBackward, type, segments, change.low_rank, static_cast<const void*>(v), y);
  }
}

void ChangeLookupBackward(Type type, const Segments& segments, const Change& change,
                          const ChangeGradient& gradient, const int32_t* token, const void* dy, void* u,
                          void* v) {
  switch (change.kind) {
    case DeltaKind::kSparse:
      Launch(SparseLookupBackward, type, segments, change.sparse, token, dy, gradient.values);
      return;
    case DeltaKind::kDense:
      Launch(DenseLookupBackward, type, segments, change.dense, token, dy, gradient.values);
      return;
    default:
      break;
  }
  // The row of token t is A^T (gain * v), v = scale B[t]: v and u = A dy are what the gradients are made of.
  Launch(LowRankLookup, type, segments, change.low_rank, token, v);
  Launch(LowRankShrink, type, segments, change.low_rank, dy, u);
  LowRankGradient to = gradient.low_rank;
  to.db = nullptr;
  to.accumulate = true;
  Launch(LowRankBackwardValues, type, segments, change.low_rank, dy, static_cast<const void*>(nullptr),
         static_cast<const void*>(u), static_cast<const void*>(v), to);
  if (gradient.low_rank.db == nullptr) return;
  Dense rows;
  rows.scale = change.low_rank.scale;
  rows.in = change.low_rank.rank;
  rows.out = change.low_rank.out;
  Launch(DenseLookupBackward, type, segments, rows, token, static_cast<const void*>(u), gradient.values);
}

ChangeTables::ChangeTables(const DeviceModel& model, int64_t tables, int64_t segments)
    : segments_(segments),
      addresses_host_(at::zeros({tables, kAddresses, segments}, at::kLong)),
      ranks_host_(at::zeros({tables, segments}, at::kInt)),
      scales_host_(at::zeros({tables, segments}, at::kFloat)),
      addresses_(at::zeros({tables, kAddresses, segments}, model.options(at::kLong))),
      ranks_(at::zeros({tables, segments}, model.options(at::kInt))),
      scales_(at::zeros({tables, segments}, model.options(at::kFloat))) {}

void ChangeTables::Set(int64_t table, int64_t segment, Address which, const void* address) {
  addresses_host_.mutable_data_ptr<int64_t>()[(table * kAddresses + which) * segments_ + segment] =
      static_cast<int64_t>(reinterpret_cast<intptr_t>(address));
}
void ChangeTables::Set(int64_t table, int64_t segment, Address which, const at::Tensor& tensor) {
  const void* address = tensor.defined() ? tensor.const_data_ptr() : nullptr;
  Set(table, segment, which, address);
}
void ChangeTables::SetRank(int64_t table, int64_t segment, int64_t rank) {
  ranks_host_.mutable_data_ptr<int32_t>()[table * segments_ + segment] = static_cast<int32_t>(rank);
}
void ChangeTables::SetScale(int64_t table, int64_t segment, double scale) {
  scales_host_.mutable_data_ptr<float>()[table * segments_ + segment] = static_cast<float>(scale);
}

void ChangeTables::Clear(int64_t table, int64_t segment) {
  for (int64_t which = 0; which < kAddresses; ++which)
    Set(table, segment, static_cast<Address>(which), static_cast<const void*>(nullptr));
  SetRank(table, segment, 0);
  SetScale(table, segment, 0);
}

void ChangeTables::Upload() {
  if (!addresses_.defined()) return;
  UploadInto(addresses_host_, addresses_);
  UploadInto(ranks_host_, ranks_);
  UploadInto(scales_host_, scales_);
}

const int64_t* ChangeTables::Row(int64_t table, int64_t which) const {
  return addresses_.const_data_ptr<int64_t>() + (table * kAddresses + which) * segments_;
}

Change ChangeTables::View(int64_t table, DeltaKind kind, int64_t rank, int64_t in, int64_t out) const {
  const float* scale = scales_.const_data_ptr<float>() + table * segments_;
  const auto any = [&](Address which) { return reinterpret_cast<const void* const*>(Row(table, which)); };
  const auto ints = [&](Address which) { return reinterpret_cast<const int32_t* const*>(Row(table, which)); };
  Change view;
  view.kind = kind;
  switch (kind) {
    case DeltaKind::kSparse:
      view.sparse = {ints(kRowOffsets),
                     ints(kColumns),
                     any(kValues),
                     ints(kColumnOffsets),
                     ints(kRows),
                     ints(kOrder),
                     scale,
                     in,
                     out};
      break;
    case DeltaKind::kDense:
      view.dense = {any(kValues), scale, in, out};
      break;
    default:
      view.low_rank.a_pointers = any(kA);
      view.low_rank.b_pointers = any(kB);
      view.low_rank.gain_pointers = reinterpret_cast<const float* const*>(Row(table, kGain));
      view.low_rank.ranks = ranks_.const_data_ptr<int32_t>() + table * segments_;
      view.low_rank.scale = scale;
      view.low_rank.rank = rank;
      view.low_rank.in = in;
      view.low_rank.out = out;
  }
  return view;
}

float* const* ChangeTables::Gradients(int64_t table) const {
  return reinterpret_cast<float* const*>(Row(table, kGradient));
}

SparseByColumn ByColumn(const at::Tensor& row_offsets, const at::Tensor& columns, int64_t in) {
  const int32_t* begin = row_offsets.const_data_ptr<int32_t>();
  const int32_t* column = columns.const_data_ptr<int32_t>();
  const int64_t entries = columns.numel();
  std::vector<int32_t> column_offsets(in + 1, 0), rows(entries), order(entries);
  for (int64_t k = 0; k < entries; ++k) ++column_offsets[column[k] + 1];
  for (int64_t j = 0; j < in; ++j) column_offsets[j + 1] += column_offsets[j];
  std::vector<int32_t> next(column_offsets.begin(), column_offsets.end() - 1);
  for (int64_t i = 0; i + 1 < row_offsets.numel(); ++i) {
    for (int32_t k = begin[i]; k < begin[i + 1]; ++k) {
      const int32_t place = next[column[k]]++;
      rows[place] = static_cast<int32_t>(i);
      order[place] = k;
    }
  }
  return {IntTensor(column_offsets), IntTensor(rows), IntTensor(order)};
}

at::Tensor OnDeviceAs(const DeviceModel& model, const at::Tensor& tensor, at::ScalarType dtype) {
  if (tensor.device() == model.device() && !tensor.is_cpu()) return tensor.to(dtype).contiguous();
  return Upload(tensor.contiguous().to(dtype), model.device());
}

}  // namespace selfedit::cuda
