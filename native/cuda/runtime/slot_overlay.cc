// How rows see the deltas under training, and where their gradients go: SlotDeltas as an overlay.
#include "cuda/runtime/backend.h"
#include "cuda/runtime/slot_deltas.h"

namespace selfedit::cuda {

Change SlotDeltas::View(size_t i) const {
  const SlotPlace& place = layout_.places()[i];
  const MatrixInfo& info = model_.host().tensors()[place.id];
  Change view = tables_.View(static_cast<int64_t>(i), place.kind, place.rank, info.in, info.out);
  if (place.kind != DeltaKind::kLowRank) return view;
  const at::Tensor& from = IsVector(place.id) ? value_ : shadow_;
  const char* base = static_cast<const char*>(from.const_data_ptr());
  const int64_t bytes = static_cast<int64_t>(from.element_size());
  LowRank& stacked = view.low_rank;
  stacked.a = base + place.offset * bytes;
  stacked.b = base + place.offset_b * bytes;
  stacked.a_stride = stacked.b_stride = layout_.count();
  stacked.a_pointers = stacked.b_pointers = nullptr;
  stacked.gain_pointers = nullptr;
  stacked.ranks = nullptr;
  return view;
}

ChangeGradient SlotDeltas::Gradient(size_t i, bool accumulate) const {
  const SlotPlace& place = layout_.places()[i];
  float* base = gradient_.mutable_data_ptr<float>();
  ChangeGradient gradient;
  gradient.accumulate = accumulate;
  gradient.values = tables_.Gradients(static_cast<int64_t>(i));
  LowRankGradient& ranked = gradient.low_rank;
  ranked.da_stride = ranked.db_stride = ranked.dgain_stride = layout_.count();
  if (place.kind == DeltaKind::kLowRank) {
    ranked.da = base + place.offset;
    ranked.db = base + place.offset_b;
  } else if (place.kind == DeltaKind::kSpectral) {
    ranked.dgain = base + place.offset;
  }
  return gradient;
}

template <typename Body>
void SlotDeltas::ForPlaces(int64_t id, Body body) const {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  for (const size_t place : found->second) body(place);
}

void SlotDeltas::Begin() const {
  const int64_t matrices = static_cast<int64_t>(model_.host().matrices().size());
  if (!accumulate_) {
    // Gradients of linear maps are written; those outside of them come together from several places.
    for (const SlotPlace& place : layout_.places()) {
      if (place.id >= matrices) Fill(gradient_.narrow(1, place.offset, place.size), 0);
    }
  }
  for (const auto& [id, vector] : vectors_) {
    // Biases below are added where they lie; a gain takes what is below into its own.
    const bool bias = model_.host().tensors()[id].module >= Module::kQBias;
    const float* const* below = bias || frozen_ == nullptr ? nullptr : frozen_->Table(id);
    if (below != nullptr) {
      Launch(VectorStack, below, slots_, vector.value.size(1), vector.value.mutable_data_ptr<float>());
    } else {
      Fill(vector.value, 0);
    }
    ForPlaces(id, [&](size_t i) {
      ChangeLookup(Type::kFloat32, OneRowEach(), View(i), no_token_.const_data_ptr<int32_t>(),
                   vector_v_.mutable_data_ptr(), vector.value.mutable_data_ptr());
    });
  }
}

void SlotDeltas::End() const {
  for (const auto& [id, vector] : vectors_) {
    ForPlaces(id, [&](size_t i) {
      void* u = u_[i].defined() ? u_[i].mutable_data_ptr() : nullptr;
      ChangeLookupBackward(Type::kFloat32, OneRowEach(), View(i), Gradient(i, true),
                           no_token_.const_data_ptr<int32_t>(), vector.gradient.const_data_ptr(), u,
                           vector_v_.mutable_data_ptr());
    });
  }
}

void SlotDeltas::Forward(int64_t matrix, int64_t rows, const void* x, void* y) const {
  ForPlaces(matrix, [&](size_t i) {
    void* u = u_[i].defined() ? u_[i].mutable_data_ptr() : nullptr;
    ChangeForward(model_.type(), model_.type(), SegmentsOf(rows), View(i), x, u, y);
  });
  const auto bias = vectors_.find(model_.host().ids().bias[matrix]);
  if (bias == vectors_.end()) return;
  Launch(VectorAdd, model_.type(), SegmentsOf(rows), bias->second.rows(), bias->second.value.size(1), y);
}

void SlotDeltas::Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const {
  ForPlaces(matrix, [&](size_t i) {
    const ChangeGradient gradient = Gradient(i, accumulate_);
    const void* u = u_[i].defined() ? u_[i].const_data_ptr() : nullptr;
    ChangeBackward(model_.type(), SegmentsOf(rows), View(i), &gradient, x, dy, u, v_.mutable_data_ptr(), dx);
  });
  const auto bias = vectors_.find(model_.host().ids().bias[matrix]);
  if (bias == vectors_.end()) return;
  Launch(VectorBackward, model_.type(), SegmentsOf(rows), dy, bias->second.value.size(1),
         bias->second.gradients(), false);
}

void SlotDeltas::EmbedForward(const RowBatch& batch, void* y) const {
  ForPlaces(model_.host().ids().embedding, [&](size_t i) {
    ChangeLookup(model_.type(), SegmentsOf(batch.rows), View(i), batch.tokens, v_.mutable_data_ptr(), y);
  });
}

void SlotDeltas::EmbedBackward(const RowBatch& batch, const void* dy) const {
  ForPlaces(model_.host().ids().embedding, [&](size_t i) {
    void* u = u_[i].defined() ? u_[i].mutable_data_ptr() : nullptr;
    ChangeLookupBackward(model_.type(), SegmentsOf(batch.rows), View(i), Gradient(i, true), batch.tokens, dy,
                         u, v_.mutable_data_ptr());
  });
}

void SlotDeltas::HeadForward(int64_t begin, int64_t count, const void* x, float* logits) const {
  const int64_t head = model_.host().ids().head;
  if (!Trains(head)) return;
  // The backward of the same rows comes next, over the same segments.
  Launch(ClipSegments, SegmentsOf(begin + count), begin, count, clipped_.mutable_data_ptr<int32_t>());
  const Segments segments{clipped_.const_data_ptr<int32_t>(), slots_, count};
  ForPlaces(head, [&](size_t i) {
    void* u = u_[i].defined() ? u_[i].mutable_data_ptr() : nullptr;
    ChangeForward(model_.type(), Type::kFloat32, segments, View(i), x, u, logits);
  });
}

void SlotDeltas::HeadBackward(int64_t, int64_t count, const void* x, const void* dlogits, void* dx) const {
  const Segments segments{clipped_.const_data_ptr<int32_t>(), slots_, count};
  ForPlaces(model_.host().ids().head, [&](size_t i) {
    const ChangeGradient gradient = Gradient(i, true);
    const void* u = u_[i].defined() ? u_[i].const_data_ptr() : nullptr;
    ChangeBackward(model_.type(), segments, View(i), &gradient, x, dlogits, u, v_.mutable_data_ptr(), dx);
  });
}

NormGain SlotDeltas::Gain(int64_t id) const {
  const auto found = vectors_.find(id);
  if (found == vectors_.end()) return {};
  return {found->second.rows(), {offsets_, slots_, 0}};
}

void SlotDeltas::GainBackward(int64_t id, int64_t rows, int64_t heads, const void* x, const float* rstd,
                              const void* dy) const {
  const auto found = vectors_.find(id);
  if (found == vectors_.end()) return;
  Launch(RmsNormBackwardGain, model_.type(), SegmentsOf(rows), heads, x, rstd, dy,
         found->second.value.size(1), found->second.gradients(), false);
}

}  // namespace selfedit::cuda
