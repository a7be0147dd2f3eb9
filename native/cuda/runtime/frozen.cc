#include "cuda/runtime/frozen.h"

#include <algorithm>
#include <tuple>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {

FrozenOverlay::FrozenOverlay(const DeviceModel& model, FrozenDeltas& deltas,
                             const std::vector<DeltaStack>& stacks, size_t first_level, int64_t segments,
                             int64_t rows)
    : model_(model), deltas_(deltas), segments_(segments) {
  // For every weight, level and kind as many products as the stack that has most needs, as wide as the
  // widest.
  std::map<int64_t, std::map<std::tuple<size_t, DeltaKind, size_t>, int64_t>> needed;
  int64_t widest = 8, tables = 0;
  for (const DeltaStack& stack : stacks) {
    for (size_t level = first_level; level < stack.size(); ++level) {
      for (const auto& [key, pieces] : deltas.Get(stack[level].delta)->pieces) {
        for (size_t piece = 0; piece < pieces.size(); ++piece) {
          int64_t& rank = needed[key.first][{level, key.second, piece}];
          rank = std::max(rank, (pieces[piece].rank() + 7) / 8 * 8);
          widest = std::max(widest, rank);
        }
      }
    }
  }
  for (const auto& [id, products] : needed) {
    for (const auto& [key, rank] : products) {
      const auto& [level, kind, piece] = key;
      products_[id].push_back({level, kind, piece, rank, tables++});
    }
  }
  if (empty()) return;
  tables_ = ChangeTables(model, tables, segments);
  u_ = at::empty({rows, widest}, model.options());
  clipped_ = at::zeros({segments + 1}, model.options(at::kInt));
}

void FrozenOverlay::Set(int64_t segment, const DeltaStack* stack, bool outside_only) {
  const int64_t matrices = static_cast<int64_t>(model_.host().matrices().size());
  using Tables = ChangeTables;
  for (const auto& [id, products] : products_) {
    for (const Product& product : products) {
      tables_.Clear(product.table, segment);
      if (stack == nullptr || product.level >= stack->size() || (outside_only && id < matrices)) continue;
      const AppliedDelta& applied = (*stack)[product.level];
      const auto delta = deltas_.Get(applied.delta);
      const auto found = delta->pieces.find({id, product.kind});
      if (found == delta->pieces.end() || product.piece >= found->second.size()) continue;
      const FrozenPiece& piece = found->second[product.piece];
      const auto set = [&](Tables::Address which, const at::Tensor& t) {
        tables_.Set(product.table, segment, which, t);
      };
      switch (product.kind) {
        case DeltaKind::kSparse:
          set(Tables::kRowOffsets, piece.row_offsets);
          set(Tables::kColumns, piece.columns);
          set(Tables::kColumnOffsets, piece.column_offsets);
          set(Tables::kRows, piece.rows);
          set(Tables::kOrder, piece.order);
          [[fallthrough]];
        case DeltaKind::kDense:
          set(Tables::kValues, piece.values);
          break;
        default:
          set(Tables::kA, piece.a);
          set(Tables::kB, piece.b);
          set(Tables::kGain, piece.gain);
          tables_.SetRank(product.table, segment, piece.rank());
      }
      tables_.SetScale(product.table, segment, piece.scale * applied.scale);
    }
  }
}

template <typename Body>
void FrozenOverlay::ForChanges(int64_t id, Body body) const {
  const auto found = products_.find(id);
  if (found == products_.end()) return;
  const MatrixInfo& info = model_.host().tensors()[id];
  for (const Product& p : found->second) body(tables_.View(p.table, p.kind, p.rank, info.in, info.out));
}

void FrozenOverlay::Forward(int64_t matrix, int64_t rows, const void* x, void* y) const {
  ForChanges(matrix, [&](const Change& change) {
    ChangeForward(model_.type(), model_.type(), {offsets_, segments_, rows}, change, x, u_.mutable_data_ptr(),
                  y);
  });
}

void FrozenOverlay::Backward(int64_t matrix, int64_t rows, const void* x, const void* dy, void* dx) const {
  ForChanges(matrix, [&](const Change& change) {
    ChangeBackward(model_.type(), {offsets_, segments_, rows}, change, nullptr, x, dy, nullptr,
                   u_.mutable_data_ptr(), dx);
  });
}

void FrozenOverlay::EmbedForward(const RowBatch& batch, void* y) const {
  ForChanges(model_.host().ids().embedding, [&](const Change& change) {
    ChangeLookup(model_.type(), {offsets_, segments_, batch.rows}, change, batch.tokens,
                 u_.mutable_data_ptr(), y);
  });
}

void FrozenOverlay::HeadForward(int64_t begin, int64_t count, const void* x, float* logits) const {
  if (products_.count(model_.host().ids().head) == 0) return;
  Launch(ClipSegments, Segments{offsets_, segments_, begin + count}, begin, count,
         clipped_.mutable_data_ptr<int32_t>());
  ForChanges(model_.host().ids().head, [&](const Change& change) {
    ChangeForward(model_.type(), Type::kFloat32, {clipped_.const_data_ptr<int32_t>(), segments_, count},
                  change, x, u_.mutable_data_ptr(), logits);
  });
}

void FrozenOverlay::HeadBackward(int64_t begin, int64_t count, const void* x, const void* dlogits,
                                 void* dx) const {
  if (products_.count(model_.host().ids().head) == 0) return;
  Launch(ClipSegments, Segments{offsets_, segments_, begin + count}, begin, count,
         clipped_.mutable_data_ptr<int32_t>());
  ForChanges(model_.host().ids().head, [&](const Change& change) {
    ChangeBackward(model_.type(), {clipped_.const_data_ptr<int32_t>(), segments_, count}, change, nullptr, x,
                   dlogits, nullptr, u_.mutable_data_ptr(), dx);
  });
}

FrozenVectors::FrozenVectors(const DeviceModel& model, FrozenDeltas& deltas,
                             const std::vector<DeltaStack>& stacks, int64_t segments)
    : model_(model), segments_(segments) {
  for (const DeltaStack& stack : stacks) {
    const auto [place, added] = of_stack_.try_emplace(KeyOf(stack));
    if (!added) continue;
    Vectors sums;
    for (const AppliedDelta& applied : stack) {
      for (const auto& [id, change] : deltas.Get(applied.delta)->vectors) {
        const at::Tensor scaled = at::mul(change, applied.scale);
        const auto [sum, first] = sums.try_emplace(id, scaled);
        if (!first) sum->second = at::add(sum->second, scaled);
      }
    }
    for (const auto& [id, sum] : sums) {
      place->second[id] = cuda::Upload(sum, model.device());
      index_.try_emplace(id, 0);
    }
  }
  int64_t next = 0;
  for (auto& [id, place] : index_) place = next++;
  if (empty()) return;
  table_host_ = at::zeros({next, segments}, at::kLong);
  table_ = at::zeros({next, segments}, model.options(at::kLong));
}

FrozenVectors::Key FrozenVectors::KeyOf(const DeltaStack& stack) {
  Key key;
  for (const AppliedDelta& applied : stack) key.emplace_back(applied.delta.get(), applied.scale);
  return key;
}

void FrozenVectors::Set(int64_t segment, const DeltaStack* stack) {
  if (empty()) return;
  const Vectors* vectors = stack == nullptr ? nullptr : &of_stack_.at(KeyOf(*stack));
  for (const auto& [id, place] : index_) {
    const void* address = nullptr;
    if (vectors != nullptr) {
      const auto found = vectors->find(id);
      if (found != vectors->end()) address = found->second.const_data_ptr();
    }
    table_host_.mutable_data_ptr<int64_t>()[place * segments_ + segment] =
        static_cast<int64_t>(reinterpret_cast<intptr_t>(address));
  }
}

void FrozenVectors::Upload() {
  if (!empty()) UploadInto(table_host_, table_);
}

const float* const* FrozenVectors::Table(int64_t id) const {
  const auto found = index_.find(id);
  if (found == index_.end()) return nullptr;
  return reinterpret_cast<const float* const*>(table_.const_data_ptr<int64_t>() + found->second * segments_);
}

void FrozenVectors::Forward(int64_t matrix, int64_t rows, const void*, void* y) const {
  const int64_t bias = model_.host().ids().bias[matrix];
  const float* const* table = bias < 0 ? nullptr : Table(bias);
  if (table == nullptr) return;
  Launch(VectorAdd, model_.type(), Segments{offsets_, segments_, rows}, table,
         model_.host().matrices()[matrix].out, y);
}

NormGain FrozenVectors::Gain(int64_t id) const {
  const float* const* table = Table(id);
  if (table == nullptr) return {};
  return {table, {offsets_, segments_, 0}};
}

size_t CommonLevels(const std::vector<DeltaStack>& stacks) {
  if (stacks.empty()) return 0;
  size_t common = stacks.front().size();
  for (const DeltaStack& stack : stacks) {
    size_t same = 0;
    while (same < std::min(common, stack.size()) && stack[same] == stacks.front()[same]) ++same;
    common = same;
  }
  return common;
}

FrozenStacks::FrozenStacks(const DeviceModel& model, FrozenDeltas& deltas,
                           const std::vector<DeltaStack>& stacks, int64_t segments,
                           const std::vector<int64_t>& batch_rows, const Copies& copies) {
  int64_t most = 0;
  for (const int64_t rows : batch_rows) {
    most = std::max(most, rows);
    at::Tensor whole = at::zeros({2}, at::kInt);
    whole.mutable_data_ptr<int32_t>()[1] = static_cast<int32_t>(rows);
    whole_[rows] = cuda::Upload(whole, model.device());
  }
  copied_ = std::make_unique<CopiedOverlay>(model, copies, segments);
  const size_t common = copied_->empty() ? CommonLevels(stacks) : 0;
  DeltaStack shared;
  if (common > 0)
    shared.assign(stacks.front().begin(), stacks.front().begin() + static_cast<int64_t>(common));
  common_ = std::make_unique<FrozenOverlay>(model, deltas, std::vector<DeltaStack>{shared}, 0, 1, most);
  common_->Set(0, &shared);
  common_->Upload();
  own_ = std::make_unique<FrozenOverlay>(model, deltas, stacks, common, segments, most);
  vectors_ = std::make_unique<FrozenVectors>(model, deltas, stacks, segments);
}

void FrozenStacks::SetSegments(const int32_t* offsets) {
  copied_->SetSegments(offsets);
  own_->SetSegments(offsets);
  vectors_->SetSegments(offsets);
}
void FrozenStacks::Set(int64_t segment, const DeltaStack* stack, const Materialised* copy) {
  copied_->Set(segment, copy);
  own_->Set(segment, stack, copy != nullptr);
  vectors_->Set(segment, stack);
}
void FrozenStacks::Upload() {
  copied_->Upload();
  own_->Upload();
  vectors_->Upload();
}

Overlays FrozenStacks::For(int64_t rows) {
  Overlays overlays;
  if (!copied_->empty()) overlays.push_back(copied_.get());
  if (!common_->empty()) {
    // The launches copy the pointer: other sizes may be asked for afterwards.
    common_->SetSegments(whole_.at(rows).const_data_ptr<int32_t>());
    overlays.push_back(common_.get());
  }
  if (!own_->empty()) overlays.push_back(own_.get());
  if (!vectors_->empty()) overlays.push_back(vectors_.get());
  return overlays;
}

}  // namespace selfedit::cuda
