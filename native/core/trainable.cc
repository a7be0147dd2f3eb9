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
  int64_t offset = 0, previous = -1;
  for (const int32_t id : matrices) {
    if (id <= previous || id >= static_cast<int64_t>(model.matrices().size())) {
      throw Error("TARGET_UNKNOWN", "matrix ids must ascend and lie below " +
                                        std::to_string(model.matrices().size()) + "; found " +
                                        std::to_string(id));
    }
    previous = id;
    const MatrixInfo& info = model.matrices()[id];
    parts_.push_back(
        {id, rank, info.out, info.in, offset, offset + rank * info.in, alpha / static_cast<double>(rank)});
    offset += rank * (info.in + info.out);
  }
  values_ = at::zeros({offset}, model.options());
  gradient_ = at::zeros_like(values_);
  first_ = at::zeros_like(values_);
  second_ = at::zeros_like(values_);
  Point();
}

void TrainableDelta::Point() {
  view_.matrices.clear();
  view_.views.clear();
  const int64_t size = static_cast<int64_t>(values_.element_size());
  char* values = static_cast<char*>(values_.mutable_data_ptr());
  char* gradient = gradient_.defined() ? static_cast<char*>(gradient_.mutable_data_ptr()) : nullptr;
  for (const Part& part : parts_) {
    view_.matrices.push_back(part.matrix);
    view_.views.push_back({values + part.offset_a * size, values + part.offset_b * size,
                           gradient ? gradient + part.offset_a * size : nullptr,
                           gradient ? gradient + part.offset_b * size : nullptr, part.rank, part.scale});
  }
}

void TrainableDelta::Initialise(uint64_t key) {
  BeforeWrite();
  values_.zero_();
  for (const Part& part : parts_) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(part.in));
    const uint64_t part_key = MixKey(key, static_cast<uint64_t>(part.matrix));
    const int64_t count = part.rank * part.in;
    at::Tensor a = at::empty({count}, at::kFloat);
    float* out = a.mutable_data_ptr<float>();
    for (int64_t i = 0; i < count; i += 4) {
      const Philox4 words = Philox(part_key, i / 4, 0);
      for (int64_t j = 0; j < 4 && i + j < count; ++j) {
        out[i + j] = static_cast<float>((2.0 * UniformOpenFloat(words.v[j]) - 1.0) * bound);
      }
    }
    values_.narrow(0, part.offset_a, count).copy_(a);
  }
}

void TrainableDelta::InitialiseFrom(const Delta& delta, const Model& model) {
  delta.Check(model);  // it may have been made for another model
  BeforeWrite();
  if (delta.low_rank.size() != parts_.size()) {
    throw Error("DELTA_SHAPE", "the initial delta changes " + std::to_string(delta.low_rank.size()) +
                                   " matrices, the chosen targets are " + std::to_string(parts_.size()));
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    const LowRankPart& from = delta.low_rank[i];
    const std::string& name = model.matrices()[part.matrix].name;
    if (from.matrix != part.matrix) {
      throw Error("DELTA_SHAPE", "the initial delta has \"" + model.matrices()[from.matrix].name +
                                     "\" where the chosen targets have \"" + name + "\"");
    }
    if (from.rank() != part.rank) {
      throw Error("DELTA_SHAPE", "\"" + name + "\": the initial delta has rank " +
                                     std::to_string(from.rank()) + ", expected " + std::to_string(part.rank));
    }
    part.scale = from.scale;
    values_.narrow(0, part.offset_a, part.rank * part.in).copy_(from.a.reshape(-1));
    values_.narrow(0, part.offset_b, part.rank * part.out).copy_(from.b.reshape(-1));
  }
  Point();
}

DeltaPtr TrainableDelta::Share() {
  if (DeltaPtr present = shared_.lock()) return present;
  auto delta = std::make_shared<Delta>();
  for (const Part& part : parts_) {
    delta->low_rank.push_back(
        {part.matrix, values_.narrow(0, part.offset_a, part.rank * part.in).view({part.rank, part.in}),
         values_.narrow(0, part.offset_b, part.rank * part.out).view({part.out, part.rank}), part.scale});
  }
  shared_ = delta;
  return delta;
}

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
