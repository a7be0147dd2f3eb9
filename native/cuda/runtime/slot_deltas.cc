#include "cuda/runtime/slot_deltas.h"

#include <algorithm>
#include <cstring>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {
constexpr int64_t kFields = static_cast<int64_t>(sizeof(SlotOptimizer) / sizeof(double));
static_assert(sizeof(SlotOptimizer) == 5 * sizeof(double));

at::Tensor Row(const at::Tensor& stacked, int64_t slot) { return stacked.select(0, slot); }
bool Ranked(DeltaKind kind) { return kind == DeltaKind::kLowRank || kind == DeltaKind::kSpectral; }
}  // namespace

SlotDeltas::SlotDeltas(const DeviceModel& model, const std::vector<TrainedPart>& parts, int64_t slots,
                       int64_t rows, Keep keep, const FrozenVectors* frozen)
    : model_(model),
      layout_(model.host(), parts),
      slots_(slots),
      keep_(keep),
      frozen_(frozen),
      tables_(model, static_cast<int64_t>(layout_.places().size()), slots),
      held_(slots, std::vector<std::vector<FrozenPiece>>(layout_.places().size())) {
  const auto floats = model.options(at::kFloat), ints = model.options(at::kInt);
  const int64_t count = layout_.count();
  gradient_ = at::zeros({slots, count}, floats);
  if (keep != Keep::kGradients) {
    value_ = at::zeros({slots, count}, floats);
    // In float32 the products read the masters themselves.
    shadow_ = model.type() == Type::kFloat32 ? value_ : at::zeros({slots, count}, model.options());
  }
  if (keep == Keep::kMoments) {
    first_moment_ = at::zeros({slots, count}, floats);
    second_moment_ = at::zeros({slots, count}, floats);
    optimizer_ = at::zeros({slots, kFields}, model.options(at::kDouble));
    partial_ = at::zeros({slots, kNormParts}, model.options(at::kDouble));
    norm_ = at::zeros({slots}, model.options(at::kDouble));
  }
  failed_step_ = at::zeros({slots}, ints);
  at::Tensor each = at::arange(slots + 1, at::kInt);
  one_each_ = cuda::Upload(each, model.device());
  no_token_ = at::zeros({slots}, ints);
  clipped_ = at::zeros({slots + 1}, ints);
  int64_t widest = 8;
  for (size_t i = 0; i < layout_.places().size(); ++i) {
    const SlotPlace& place = layout_.places()[i];
    by_id_[place.id].push_back(i);
    const bool vector = IsVector(place.id);
    if (!vector) widest = std::max(widest, place.rank);
    u_.push_back(!Ranked(place.kind) ? at::Tensor()
                                     : at::empty({vector ? slots : rows, place.rank},
                                                 model.options(ScalarOf(TypeOf(place.id)))));
    if (vector && vectors_.count(place.id) == 0) {
      const int64_t c = model.host().tensors()[place.id].in;
      Vector& made = vectors_[place.id];
      made.value = at::zeros({slots, c}, floats);
      made.gradient = at::zeros({slots, c}, floats);
      at::Tensor pointers = at::empty({2, slots}, at::kLong);
      for (int64_t s = 0; s < slots; ++s) {
        int64_t* to = pointers.mutable_data_ptr<int64_t>() + s;
        to[0] = reinterpret_cast<intptr_t>(made.value.const_data_ptr<float>() + s * c);
        to[slots] = reinterpret_cast<intptr_t>(made.gradient.const_data_ptr<float>() + s * c);
      }
      made.pointers = cuda::Upload(pointers, model.device());
    }
    if (keep == Keep::kGradients) {
      for (int64_t s = 0; s < slots; ++s) {
        tables_.Set(static_cast<int64_t>(i), s, ChangeTables::kGradient,
                    gradient_.const_data_ptr<float>() + s * count + place.offset);
        tables_.SetScale(static_cast<int64_t>(i), s, 1);
      }
    }
  }
  v_ = at::empty({rows, widest}, model.options());
  if (!vectors_.empty()) vector_v_ = at::empty({slots, kMostRank}, floats);
  tables_.Upload();
}

int64_t SlotDeltas::SlotBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts, Keep keep) {
  const int64_t shadow = model.type() == Type::kFloat32 ? 0 : model.type_bytes();
  const int64_t value = keep == Keep::kGradients ? 4 : keep == Keep::kValues ? 8 + shadow : 16 + shadow;
  int64_t indices = 0;  // five lists of a sparse change, a copy of its offsets included
  int64_t vectors = 0;
  for (const TrainedPart& part : parts) {
    const MatrixInfo& info = model.host().tensors().at(part.id);
    if (part.kind == DeltaKind::kSparse) indices += 4 * (3 * part.size + info.in + info.out);
    if (part.kind == DeltaKind::kSpectral) indices += model.type_bytes() * part.size * (info.in + info.out);
    if (info.vector()) vectors += 8 * info.in;
  }
  return SlotLayout(model.host(), parts).count() * value + indices + vectors;
}

int64_t SlotDeltas::TokenBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts) {
  int64_t width = 0;
  const SlotLayout layout(model.host(), parts);
  for (const SlotPlace& place : layout.places()) {
    if (!model.host().tensors()[place.id].vector()) width += place.rank;
  }
  return (width + kMostRank) * model.type_bytes();
}

int64_t SlotDeltas::ValueBytes(const DeviceModel& model, const std::vector<TrainedPart>& parts) {
  return 4 * SlotLayout(model.host(), parts).count();
}

void SlotDeltas::SetPlace(int64_t slot, size_t i, const DeltaPart& part) {
  using Tables = ChangeTables;
  const SlotPlace& place = layout_.places()[i];
  const int64_t table = static_cast<int64_t>(i), first = slot * layout_.count() + place.offset;
  const int64_t rank = SlotLayout::RankOf(part, place);
  tables_.SetScale(table, slot, part.scale);
  const float* masters = value_.const_data_ptr<float>() + first;
  const void* products =
      IsVector(place.id) ? static_cast<const void*>(masters)
                         : static_cast<const char*>(shadow_.const_data_ptr()) + first * model_.type_bytes();
  const float* gradient = gradient_.const_data_ptr<float>() + first;
  switch (place.kind) {
    case DeltaKind::kLowRank:
      // A and B are read as slices; of the tables only where the rows of dB begin.
      gradient += place.offset_b - place.offset;
      break;
    case DeltaKind::kSpectral: {
      if (rank == 0) break;
      DeltaPart piece = part;
      piece.a = part.a.narrow(0, place.from, rank);
      piece.b = part.b.narrow(1, place.from, rank);
      piece.sigma = part.sigma.narrow(0, place.from, rank);
      piece.values = part.values.narrow(0, place.from, rank);
      held_[slot][i] = PiecesOf(model_, piece, ScalarOf(TypeOf(place.id)));
      tables_.Set(table, slot, Tables::kA, held_[slot][i][0].a);
      tables_.Set(table, slot, Tables::kB, held_[slot][i][0].b);
      tables_.Set(table, slot, Tables::kGain, masters);
      tables_.SetRank(table, slot, rank);
      break;
    }
    case DeltaKind::kSparse: {
      held_[slot][i] = PiecesOf(model_, part, ScalarOf(TypeOf(place.id)));
      FrozenPiece& piece = held_[slot][i][0];
      piece.values = at::Tensor();
      tables_.Set(table, slot, Tables::kRowOffsets, piece.row_offsets);
      tables_.Set(table, slot, Tables::kColumns, piece.columns);
      tables_.Set(table, slot, Tables::kColumnOffsets, piece.column_offsets);
      tables_.Set(table, slot, Tables::kRows, piece.rows);
      tables_.Set(table, slot, Tables::kOrder, piece.order);
      tables_.Set(table, slot, Tables::kValues, products);
      break;
    }
    case DeltaKind::kDense:
      tables_.Set(table, slot, Tables::kValues, products);
  }
  tables_.Set(table, slot, Tables::kGradient, gradient);
}

void SlotDeltas::Start(int64_t slot, const Delta& delta, const SlotOptimizer& optimizer) {
  for (size_t i = 0; i < layout_.places().size(); ++i) {
    tables_.Clear(static_cast<int64_t>(i), slot);
    held_[slot][i].clear();
    const SlotPlace& place = layout_.places()[i];
    // A slot that does not train this low-rank change has zeros there, which the scale must leave alone.
    tables_.SetScale(static_cast<int64_t>(i), slot, 1);
    for (const DeltaPart& part : delta.parts) {
      if (part.matrix == place.id && part.kind == place.kind) SetPlace(slot, i, part);
    }
  }
  UploadInto(layout_.Flat(delta), Row(value_, slot));
  if (!shadow_.is_same(value_)) Convert(Row(value_, slot), Row(shadow_, slot));
  // What the last edit of this slot trained and this one does not would keep its gradient.
  Fill(Row(gradient_, slot), 0);
  if (keep_ != Keep::kMoments) return;
  Fill(Row(first_moment_, slot), 0);
  Fill(Row(second_moment_, slot), 0);
  Fill(Row(failed_step_, slot), 0);
  at::Tensor fields = at::empty({kFields}, at::kDouble);
  std::memcpy(fields.mutable_data_ptr(), &optimizer, sizeof optimizer);
  UploadInto(fields, Row(optimizer_, slot));
}

void SlotDeltas::Upload() { tables_.Upload(); }

DeltaPtr SlotDeltas::Take(int64_t slot, const Delta& like) const {
  return layout_.Parts(Row(value_, slot), like);
}
DeltaPtr SlotDeltas::TakeGradient(int64_t slot, const Delta& like) const {
  return layout_.Parts(Row(gradient_, slot), like);
}

void SlotDeltas::Step(const double* learning_rate, const int32_t* adam_step) const {
  AdamWSlots step;
  step.slots = slots_;
  step.count = layout_.count();
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
