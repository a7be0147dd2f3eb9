#include "core/trainable.h"

#include <cmath>

#include "core/model.h"
#include "core/philox.h"

namespace selfedit {

TrainableDelta::TrainableDelta(const Model& model, const std::vector<int32_t>& matrices, int64_t rank,
                               double alpha) {
  if (rank < 1 || rank > kMostRank) {
    throw Error("OPTION_INVALID",
                "rank is " + std::to_string(rank) + "; expected 1 to " + std::to_string(kMostRank));
  }
  if (!std::isfinite(alpha)) throw Error("OPTION_INVALID", "alpha is not finite");
  if (matrices.empty()) throw Error("TARGET_UNKNOWN", "no matrix is chosen for the delta");
  int64_t previous = -1;
  for (const int32_t id : matrices) {
    if (id <= previous || id >= static_cast<int64_t>(model.tensors().size())) {
      throw Error("TARGET_UNKNOWN", "matrix ids must ascend and lie below " +
                                        std::to_string(model.tensors().size()) + "; found " +
                                        std::to_string(id));
    }
    previous = id;
    const MatrixInfo& info = model.tensors()[id];
    // Only the shapes of the factors are needed: tensors without memory.
    const auto shape = model.options().device(at::kMeta);
    AddPart(info, DeltaPart::LowRank(id, at::empty({rank, info.in}, shape),
                                     at::empty({info.out, rank}, shape), alpha / static_cast<double>(rank)));
  }
  Allocate(model);
}

TrainableDelta::TrainableDelta(const Model& model, const Delta& start, double scale) {
  start.Check(model);
  if (start.parts.empty()) throw Error("TARGET_UNKNOWN", "no matrix is chosen for the delta");
  for (const DeltaPart& part : start.parts) {
    DeltaPart like = part;
    like.scale *= scale;
    AddPart(model.tensors()[part.matrix], like);
  }
  Allocate(model);
  for (size_t i = 0; i < parts_.size(); ++i) {
    int64_t offset = parts_[i].offset;
    for (const at::Tensor& t : start.parts[i].trainable()) {
      values_.narrow(0, offset, t.numel()).copy_(t.reshape(-1));
      offset += t.numel();
    }
  }
}

void TrainableDelta::AddPart(const MatrixInfo& info, DeltaPart like) {
  Part part{std::move(like), info.out, info.in, size_, size_};
  if (part.like.kind == DeltaKind::kLowRank) part.offset_b = size_ + part.like.rank() * info.in;
  for (const at::Tensor& t : part.like.trainable()) size_ += t.numel();
  parts_.push_back(std::move(part));
}

void TrainableDelta::Allocate(const Model& model) {
  values_ = at::zeros({size_}, model.options());
  gradient_ = at::zeros_like(values_);
  Point();
}

// Made at the first optimizer step: a gradient alone needs none.
at::Tensor& TrainableDelta::first_moment() {
  if (!first_.defined()) first_ = at::zeros_like(values_);
  return first_;
}
at::Tensor& TrainableDelta::second_moment() {
  if (!second_.defined()) second_ = at::zeros_like(values_);
  return second_;
}

void TrainableDelta::Point() {
  view_.views.clear();
  const int64_t size = static_cast<int64_t>(values_.element_size());
  char* values = static_cast<char*>(values_.mutable_data_ptr());
  char* gradient = gradient_.defined() ? static_cast<char*>(gradient_.mutable_data_ptr()) : nullptr;
  for (const Part& part : parts_) {
    // The pointers of the trainable tensors are replaced; a low-rank part's may have no memory at all.
    DeltaPart frozen = part.like;
    const bool low_rank = frozen.kind == DeltaKind::kLowRank;
    const int64_t rank = frozen.rank();
    if (low_rank) frozen.a = frozen.b = at::Tensor();
    frozen.values = at::Tensor();
    PartView view = ViewOf(frozen, part.out, part.in, 1.0);
    view.rank = rank;
    if (low_rank) {
      view.a = values + part.offset * size;
      view.b = values + part.offset_b * size;
      if (gradient != nullptr) {
        view.da = gradient + part.offset * size;
        view.db = gradient + part.offset_b * size;
      }
    } else {
      view.values = values + part.offset * size;
      if (gradient != nullptr) view.dvalues = gradient + part.offset * size;
    }
    view_.views.push_back(view);
  }
}

void TrainableDelta::Initialise(uint64_t key) {
  BeforeWrite();
  values_.zero_();
  for (const Part& part : parts_) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(part.in));
    const uint64_t part_key = MixKey(key, static_cast<uint64_t>(part.like.matrix));
    const int64_t count = part.like.rank() * part.in;
    at::Tensor a = at::empty({count}, at::kFloat);
    float* out = a.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; i += 4) {
      const Philox4 words = Philox(part_key, i / 4, 0);
      for (int64_t j = 0; j < 4 && i + j < count; ++j) {
        out[i + j] = static_cast<float>((2.0 * UniformOpenFloat(words.v[j]) - 1.0) * bound);
      }
    }
    values_.narrow(0, part.offset, count).copy_(a);
  }
}

void TrainableDelta::InitialiseFrom(const Delta& delta, const Model& model) {
  delta.Check(model);  // it may have been made for another model
  BeforeWrite();
  if (delta.parts.size() != parts_.size()) {
    throw Error("DELTA_SHAPE", "the initial delta changes " + std::to_string(delta.parts.size()) +
                                   " matrices, the chosen targets are " + std::to_string(parts_.size()));
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    const DeltaPart& from = delta.parts[i];
    const std::string& name = model.tensors()[part.like.matrix].name;
    if (from.matrix != part.like.matrix) {
      throw Error("DELTA_SHAPE", "the initial delta has \"" + model.tensors()[from.matrix].name +
                                     "\" where the chosen targets have \"" + name + "\"");
    }
    if (from.kind != DeltaKind::kLowRank) {
      throw Error("DELTA_SHAPE", "\"" + name + "\": the initial delta is " + DeltaKindName(from.kind) +
                                     ", expected lowRank");
    }
    if (from.rank() != part.like.rank()) {
      throw Error("DELTA_SHAPE", "\"" + name + "\": the initial delta has rank " +
                                     std::to_string(from.rank()) + ", expected " +
                                     std::to_string(part.like.rank()));
    }
    part.like.scale = from.scale;
    values_.narrow(0, part.offset, from.a.numel()).copy_(from.a.reshape(-1));
    values_.narrow(0, part.offset_b, from.b.numel()).copy_(from.b.reshape(-1));
  }
  Point();
}

DeltaPtr TrainableDelta::PartsOver(const at::Tensor& flat) const {
  auto delta = std::make_shared<Delta>();
  for (const Part& part : parts_) {
    DeltaPart made = part.like;
    if (made.kind == DeltaKind::kLowRank) {
      const int64_t rank = made.rank();
      made.a = flat.narrow(0, part.offset, rank * part.in).view({rank, part.in});
      made.b = flat.narrow(0, part.offset_b, rank * part.out).view({part.out, rank});
    } else {
      made.values = flat.narrow(0, part.offset, made.values.numel()).view(made.values.sizes());
    }
    delta->parts.push_back(std::move(made));
  }
  return delta;
}

DeltaPtr TrainableDelta::Share() {
  if (DeltaPtr present = shared_.lock()) return present;
  DeltaPtr delta = PartsOver(values_);
  shared_ = delta;
  return delta;
}

DeltaPtr TrainableDelta::ShareGradient() const { return PartsOver(gradient_); }

void TrainableDelta::BeforeWrite() {
  if (shared_.expired()) return;
  values_ = values_.clone();
  shared_.reset();
  Point();
}

void TrainableDelta::Finish() {
  gradient_ = first_ = second_ = at::Tensor();
  Point();
}

}  // namespace selfedit
