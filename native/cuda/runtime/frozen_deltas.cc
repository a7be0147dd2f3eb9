#include "cuda/runtime/frozen_deltas.h"

#include <algorithm>

#include "core/host_delta.h"
#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

FrozenPiece SparsePiece(const DeviceModel& model, const DeltaPart& part, at::ScalarType type) {
  const MatrixInfo& info = model.host().tensors().at(part.matrix);
  const at::Tensor offsets = part.row_offsets.cpu().contiguous(), columns = part.columns.cpu().contiguous();
  const SparseByColumn by_column = ByColumn(offsets, columns, info.in);
  FrozenPiece piece;
  piece.row_offsets = Upload(offsets, model.device());
  piece.columns = Upload(columns, model.device());
  piece.values = OnDeviceAs(model, part.values, type);
  piece.column_offsets = Upload(by_column.column_offsets, model.device());
  piece.rows = Upload(by_column.rows, model.device());
  piece.order = Upload(by_column.order, model.device());
  return piece;
}

}  // namespace

std::vector<FrozenPiece> PiecesOf(const DeviceModel& model, const DeltaPart& part, at::ScalarType type) {
  std::vector<FrozenPiece> pieces;
  switch (part.kind) {
    case DeltaKind::kSparse:
      pieces.push_back(SparsePiece(model, part, type));
      break;
    case DeltaKind::kDense:
      pieces.emplace_back();
      pieces.back().values = OnDeviceAs(model, part.values, type);
      break;
    default: {
      // The singular values join A: the gain is the change of each.
      const bool spectral = part.kind == DeltaKind::kSpectral;
      const at::Tensor a = spectral ? at::mul(part.a, part.sigma.unsqueeze(1)) : part.a;
      for (int64_t from = 0; from < part.rank(); from += kMostRank) {
        const int64_t r = std::min(kMostRank, part.rank() - from);
        pieces.emplace_back();
        pieces.back().a = OnDeviceAs(model, a.narrow(0, from, r), type);
        pieces.back().b = OnDeviceAs(model, part.b.narrow(1, from, r), type);
        if (spectral) pieces.back().gain = OnDeviceAs(model, part.values.narrow(0, from, r), at::kFloat);
      }
    }
  }
  for (FrozenPiece& piece : pieces) piece.scale = part.scale;
  return pieces;
}

std::shared_ptr<const FrozenDelta> FrozenDeltas::Get(const DeltaPtr& delta) {
  auto& entry = made_[delta.get()];
  if (entry.second) return entry.second;
  auto made = std::make_shared<FrozenDelta>();
  for (const DeltaPart& part : delta->parts) {
    const MatrixInfo& info = model_.host().tensors().at(part.matrix);
    if (info.vector()) {
      Delta alone;
      alone.parts.push_back(part);
      const DeltaPtr host = HostDelta(std::make_shared<Delta>(alone));
      const at::Tensor change = host->parts[0].Materialise(info.out, info.in).reshape({-1}).to(at::kFloat);
      const auto [place, added] = made->vectors.try_emplace(part.matrix, change);
      if (!added) place->second = at::add(place->second, change);
      continue;
    }
    for (FrozenPiece& piece : PiecesOf(model_, part, ScalarOf(model_.type())))
      made->pieces[{part.matrix, ComputedAs(part.kind)}].push_back(std::move(piece));
  }
  entry = {delta, made};
  return made;
}

}  // namespace selfedit::cuda
