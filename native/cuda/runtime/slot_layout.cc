#include "cuda/runtime/slot_layout.h"

#include <algorithm>
#include <tuple>

#include "cuda/kernels/kernels.h"

namespace selfedit::cuda {
namespace {
bool Ranked(DeltaKind kind) { return kind == DeltaKind::kLowRank || kind == DeltaKind::kSpectral; }
}  // namespace

std::vector<TrainedPart> PartsOf(const Delta& delta) {
  std::vector<TrainedPart> parts;
  for (const DeltaPart& part : delta.parts) {
    const int64_t size = Ranked(part.kind) ? part.rank() : part.values.numel();
    parts.push_back({part.matrix, part.kind, size});
  }
  return parts;
}

std::vector<TrainedPart> Widest(std::vector<TrainedPart> parts) {
  const auto key = [](const TrainedPart& part) { return std::tuple(part.id, part.kind, -part.size); };
  std::sort(parts.begin(), parts.end(),
            [&](const TrainedPart& a, const TrainedPart& b) { return key(a) < key(b); });
  const auto same = [](const TrainedPart& a, const TrainedPart& b) {
    return a.id == b.id && a.kind == b.kind;
  };
  parts.erase(std::unique(parts.begin(), parts.end(), same), parts.end());
  return parts;
}

SlotLayout::SlotLayout(const Model& model, const std::vector<TrainedPart>& parts)
    : model_(model), lowest_(model.config().layers) {
  for (const TrainedPart& part : parts) {
    const MatrixInfo& info = model.tensors().at(part.id);
    const int64_t layer = info.module == Module::kEmbedding ? -1
                          : info.layer < 0                  ? model.config().layers
                                                            : info.layer;
    lowest_ = std::min(lowest_, layer);
    for (int64_t from = 0; from < (Ranked(part.kind) ? part.size : 1); from += kMostRank) {
      SlotPlace place{part.id, part.kind, from, 0, count_, count_, part.size};
      if (Ranked(part.kind)) {
        place.rank = (std::min(kMostRank, part.size - from) + 7) / 8 * 8;
        place.size = place.rank;
      }
      if (part.kind == DeltaKind::kLowRank) {
        place.offset_b = count_ + place.rank * info.in;
        place.size = place.rank * (info.in + info.out);
      }
      if (part.kind == DeltaKind::kDense) place.size = info.in * info.out;
      // Each begins at a multiple of 16 bytes, whatever the type.
      count_ += (place.size + 7) / 8 * 8;
      places_.push_back(place);
    }
  }
}

int64_t SlotLayout::RankOf(const DeltaPart& part, const SlotPlace& place) {
  return Ranked(part.kind) ? std::clamp<int64_t>(part.rank() - place.from, 0, kMostRank) : 0;
}

at::Tensor SlotLayout::Flat(const Delta& delta) const {
  at::Tensor flat = at::zeros({count_}, at::kFloat);
  for (const DeltaPart& part : delta.parts) {
    const MatrixInfo& info = model_.tensors()[part.matrix];
    for (const SlotPlace& place : places_) {
      if (place.id != part.matrix || place.kind != part.kind) continue;
      const int64_t r = RankOf(part, place);
      if (Ranked(part.kind) && r == 0) continue;  // another slot's is wider
      switch (part.kind) {
        case DeltaKind::kLowRank:
          flat.narrow(0, place.offset, r * info.in).copy_(part.a.narrow(0, place.from, r).reshape(-1));
          flat.narrow(0, place.offset_b, place.rank * info.out)
              .view({info.out, place.rank})
              .narrow(1, 0, r)
              .copy_(part.b.narrow(1, place.from, r));
          break;
        case DeltaKind::kSpectral:
          flat.narrow(0, place.offset, r).copy_(part.values.narrow(0, place.from, r));
          break;
        default:
          flat.narrow(0, place.offset, part.values.numel()).copy_(part.values.reshape(-1));
      }
    }
  }
  return flat;
}

DeltaPtr SlotLayout::Parts(const at::Tensor& flat, const Delta& like) const {
  auto made = std::make_shared<Delta>();
  for (const DeltaPart& part : like.parts) {
    const MatrixInfo& info = model_.tensors()[part.matrix];
    std::vector<at::Tensor> a, b;  // by place
    for (const SlotPlace& place : places_) {
      if (place.id != part.matrix || place.kind != part.kind) continue;
      const int64_t r = RankOf(part, place);
      if (Ranked(part.kind) && r == 0) continue;  // another slot's is wider
      switch (part.kind) {
        case DeltaKind::kLowRank:
          a.push_back(flat.narrow(0, place.offset, r * info.in).view({r, info.in}));
          b.push_back(flat.narrow(0, place.offset_b, place.rank * info.out)
                          .view({info.out, place.rank})
                          .narrow(1, 0, r));
          break;
        case DeltaKind::kSpectral:
          a.push_back(flat.narrow(0, place.offset, r));
          break;
        default:
          a.push_back(flat.narrow(0, place.offset, part.values.numel()));
      }
    }
    DeltaPart copy = part;
    if (part.kind == DeltaKind::kLowRank) {
      copy.a = at::cat(a, 0);
      copy.b = at::cat(b, 1);
    } else {
      copy.values = at::cat(a, 0).view(part.values.sizes());
    }
    made->parts.push_back(std::move(copy));
  }
  return made;
}

}  // namespace selfedit::cuda
