#include "cuda/runtime/slot_deltas.h"

#include <cstring>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {
constexpr int64_t kFields = static_cast<int64_t>(sizeof(SlotOptimizer) / sizeof(double));
static_assert(sizeof(SlotOptimizer) == 5 * sizeof(double));

at::Tensor Row(const at::Tensor& stacked, int64_t slot) { return stacked.select(0, slot); }
}  // namespace

SlotDeltas::SlotDeltas(const DeviceModel& model, std::vector<int32_t> matrices, int64_t slots, int64_t rank,
                       int64_t rows)
    : model_(model),
      matrices_(std::move(matrices)),
      index_(model.host().matrices().size(), -1),
      slots_(slots),
      rank_((rank + 7) / 8 * 8) {
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const MatrixInfo& info = model.host().matrices().at(matrices_[i]);
    index_[matrices_[i]] = static_cast<int64_t>(i);
    places_.push_back({count_, count_ + rank_ * info.in});
    count_ += rank_ * (info.in + info.out);
    u_.push_back(at::empty({rows, rank_}, model.options()));
  }
  v_ = at::empty({rows, rank_}, model.options());
  const auto floats = model.options(at::kFloat), doubles = model.options(at::kDouble);
  for (at::Tensor* t : {&value_, &first_moment_, &second_moment_, &gradient_})
    *t = at::zeros({slots, count_}, floats);
  // In float32 the products read the masters themselves.
  shadow_ = model.type() == Type::kFloat32 ? value_ : at::zeros({slots, count_}, model.options());
  scale_ = at::zeros({static_cast<int64_t>(matrices_.size()), slots}, floats);
  optimizer_ = at::zeros({slots, kFields}, doubles);
  partial_ = at::zeros({slots, kNormParts}, doubles);
  norm_ = at::zeros({slots}, doubles);
  failed_step_ = at::zeros({slots}, model.options(at::kInt));
}

int64_t SlotDeltas::Count(const Model& model, const std::vector<int32_t>& matrices, int64_t rank) {
  int64_t width = 0;
  for (const int32_t id : matrices) width += model.matrices().at(id).in + model.matrices().at(id).out;
  return width * ((rank + 7) / 8 * 8);
}

int64_t SlotDeltas::SlotBytes(const DeviceModel& model, const std::vector<int32_t>& matrices, int64_t rank) {
  const int64_t shadow = model.type() == Type::kFloat32 ? 0 : model.type_bytes();
  return Count(model.host(), matrices, rank) * (16 + shadow);
}

int64_t SlotDeltas::TokenBytes(const DeviceModel& model, const std::vector<int32_t>& matrices, int64_t rank) {
  return (static_cast<int64_t>(matrices.size()) + 1) * (rank + 7) * model.type_bytes();
}

void SlotDeltas::Start(int64_t slot, const Delta& delta, const SlotOptimizer& optimizer) {
  at::Tensor flat = at::zeros({count_}, at::kFloat);
  at::Tensor scale = at::ones({static_cast<int64_t>(matrices_.size())}, at::kFloat);
  for (const DeltaPart& part : delta.parts) {
    const int64_t i = index_.at(part.matrix), r = part.rank();
    const MatrixInfo& info = model_.host().matrices()[part.matrix];
    flat.narrow(0, places_[i].a, r * info.in).copy_(part.a.reshape(-1));
    flat.narrow(0, places_[i].b, rank_ * info.out).view({info.out, rank_}).narrow(1, 0, r).copy_(part.b);
    scale.mutable_data_ptr<float>()[i] = static_cast<float>(part.scale);
  }
  UploadInto(flat, Row(value_, slot));
  Fill(Row(first_moment_, slot), 0);
  Fill(Row(second_moment_, slot), 0);
  Fill(Row(failed_step_, slot), 0);
  if (!shadow_.is_same(value_)) Convert(Row(value_, slot), Row(shadow_, slot));
  UploadInto(scale, scale_.select(1, slot));
  at::Tensor fields = at::empty({kFields}, at::kDouble);
  std::memcpy(fields.mutable_data_ptr(), &optimizer, sizeof optimizer);
  UploadInto(fields, Row(optimizer_, slot));
}

DeltaPtr SlotDeltas::Parts(const at::Tensor& flat, const Delta& like) const {
  auto made = std::make_shared<Delta>();
  for (const DeltaPart& part : like.parts) {
    const int64_t i = index_.at(part.matrix), r = part.rank();
    const MatrixInfo& info = model_.host().matrices()[part.matrix];
    const at::Tensor a = flat.narrow(0, places_[i].a, r * info.in).view({r, info.in});
    const at::Tensor b =
        flat.narrow(0, places_[i].b, rank_ * info.out).view({info.out, rank_}).narrow(1, 0, r);
    made->parts.push_back(DeltaPart::LowRank(part.matrix, a, b.contiguous(), part.scale));
  }
  return made;
}

DeltaPtr SlotDeltas::Take(int64_t slot, const Delta& like) const {
  return Parts(Row(value_, slot).clone(), like);
}
DeltaPtr SlotDeltas::TakeGradient(int64_t slot, const Delta& like) const {
  return Parts(Row(gradient_, slot).clone(), like);
}

LowRank SlotDeltas::View(int64_t index) const {
  const MatrixInfo& info = model_.host().matrices()[matrices_[index]];
  const char* base = static_cast<const char*>(shadow_.const_data_ptr());
  LowRank view;
  view.a = base + places_[index].a * model_.type_bytes();
  view.b = base + places_[index].b * model_.type_bytes();
  view.a_stride = view.b_stride = count_;
  view.scale = scale_.const_data_ptr<float>() + index * slots_;
  view.rank = rank_;
  view.in = info.in;
  view.out = info.out;
  return view;
}

void SlotDeltas::Forward(int64_t matrix, int64_t rows, const void* x, void* y) const {
  const int64_t i = index_[matrix];
  if (i < 0) return;
  const LowRank view = View(i);
  void* u = u_[i].mutable_data_ptr();
  Launch(LowRankShrink, model_.type(), SegmentsOf(rows), view, x, u);
  Launch(LowRankExpand, model_.type(), model_.type(), SegmentsOf(rows), view, u, y);
}

void SlotDeltas::Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const {
  const int64_t i = index_[matrix];
  if (i < 0) return;
  const LowRank view = View(i);
  const Segments segments = SegmentsOf(rows);
  void* v = v_.mutable_data_ptr();
  Launch(LowRankShrinkBackward, model_.type(), segments, view, dy, v);
  if (dx != nullptr) Launch(LowRankExpandBackward, model_.type(), segments, view, v, dx);
  LowRankGradient gradient;
  gradient.da = gradient_.mutable_data_ptr<float>() + places_[i].a;
  gradient.db = gradient_.mutable_data_ptr<float>() + places_[i].b;
  gradient.da_stride = gradient.db_stride = count_;
  gradient.accumulate = accumulate_;
  Launch(LowRankBackwardValues, model_.type(), segments, view, x, dy, u_[i].const_data_ptr(), v, gradient);
}

void SlotDeltas::Step(const double* learning_rate, const int32_t* adam_step) const {
  AdamWSlots step;
  step.slots = slots_;
  step.count = count_;
  step.value = value_.mutable_data_ptr<float>();
  step.first_moment = first_moment_.mutable_data_ptr<float>();
  step.second_moment = second_moment_.mutable_data_ptr<float>();
  step.gradient = gradient_.const_data_ptr<float>();
  if (!shadow_.is_same(value_)) {
    step.shadow = shadow_.mutable_data_ptr();
    step.shadow_type = model_.type();
  }
  step.optimizer = static_cast<const SlotOptimizer*>(optimizer_.const_data_ptr());
  step.learning_rate = learning_rate;
  step.adam_step = adam_step;
  step.partial = partial_.mutable_data_ptr<double>();
  step.norm = norm_.mutable_data_ptr<double>();
  step.failed_step = failed_step_.mutable_data_ptr<int32_t>();
  Launch(AdamW, step);
}

}  // namespace selfedit::cuda
