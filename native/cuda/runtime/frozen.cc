#include "cuda/runtime/frozen.h"

#include <algorithm>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

// Rows of the pointer table.
enum Slot : int64_t {
  kA,
  kB,
  kGain,
  kRowOffsets = 0,
  kColumns,
  kValues,
  kColumnOffsets,
  kRows,
  kOrder,
  kPointers
};

at::Tensor IntTensor(const std::vector<int32_t>& values) {
  at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<int32_t>());
  return t;
}

// On the device, whatever it was on before.
at::Tensor Place(const DeviceModel& model, const at::Tensor& t, at::ScalarType dtype) {
  if (t.device() == model.device() && !t.is_cpu()) return t.to(dtype).contiguous();
  return Upload(t.contiguous().to(dtype), model.device());
}

void AddLowRank(const DeviceModel& model, const DeltaPart& part, std::vector<FrozenPiece>& pieces) {
  const at::ScalarType type = ScalarOf(model.type());
  const at::Tensor gain = part.kind == DeltaKind::kSpectral ? at::mul(part.sigma, part.values) : at::Tensor();
  for (int64_t from = 0; from < part.rank(); from += kMostRank) {
    const int64_t r = std::min(kMostRank, part.rank() - from);
    FrozenPiece piece;
    piece.a = Place(model, part.a.narrow(0, from, r), type);
    piece.b = Place(model, part.b.narrow(1, from, r), type);
    if (gain.defined()) piece.gain = Place(model, gain.narrow(0, from, r), at::kFloat);
    piece.scale = part.scale;
    pieces.push_back(std::move(piece));
  }
}

void AddSparse(const DeviceModel& model, const DeltaPart& part, const MatrixInfo& info,
               std::vector<FrozenPiece>& pieces) {
  const at::Tensor offsets = part.row_offsets.cpu().contiguous(), columns = part.columns.cpu().contiguous();
  const int32_t* begin = offsets.const_data_ptr<int32_t>();
  const int32_t* column = columns.const_data_ptr<int32_t>();
  // The same entries by column, for the gradient of the input.
  std::vector<int32_t> column_offsets(info.in + 1, 0), rows(columns.numel()), order(columns.numel());
  for (int64_t k = 0; k < columns.numel(); ++k) ++column_offsets[column[k] + 1];
  for (int64_t j = 0; j < info.in; ++j) column_offsets[j + 1] += column_offsets[j];
  std::vector<int32_t> next(column_offsets.begin(), column_offsets.end() - 1);
  for (int64_t i = 0; i < info.out; ++i) {
    for (int32_t k = begin[i]; k < begin[i + 1]; ++k) {
      const int32_t place = next[column[k]]++;
      rows[place] = static_cast<int32_t>(i);
      order[place] = k;
    }
  }
  FrozenPiece piece;
  piece.row_offsets = Upload(offsets, model.device());
  piece.columns = Upload(columns, model.device());
  piece.values = Place(model, part.values, ScalarOf(model.type()));
  piece.column_offsets = Upload(IntTensor(column_offsets), model.device());
  piece.rows = Upload(IntTensor(rows), model.device());
  piece.order = Upload(IntTensor(order), model.device());
  piece.scale = part.scale;
  pieces.push_back(std::move(piece));
}

}  // namespace

std::shared_ptr<const FrozenDelta> FrozenDeltas::Get(const DeltaPtr& delta) {
  auto& entry = made_[delta.get()];
  if (entry.second) return entry.second;
  auto made = std::make_shared<FrozenDelta>();
  for (const DeltaPart& part : delta->parts) {
    const MatrixInfo& info = model_.host().tensors().at(part.matrix);
    if (part.matrix >= static_cast<int64_t>(model_.host().matrices().size()) ||
        part.kind == DeltaKind::kDense) {
      throw Error("DEVICE_UNSUPPORTED", "\"" + info.name +
                                            "\": a GPU applies lowRank, sparse and spectral changes of "
                                            "the linear maps; this one is " +
                                            DeltaKindName(part.kind) + "; compute on the CPU");
    }
    if (part.kind == DeltaKind::kSparse) {
      AddSparse(model_, part, info, made->sparse[part.matrix]);
    } else {
      AddLowRank(model_, part, made->low_rank[part.matrix]);
    }
  }
  entry = {delta, made};
  return made;
}

FrozenOverlay::FrozenOverlay(const DeviceModel& model, FrozenDeltas& deltas,
                             const std::vector<DeltaStack>& stacks, size_t first_level, int64_t segments,
                             int64_t rows)
    : model_(model), deltas_(deltas), segments_(segments) {
  // For every matrix, level and kind as many products as the stack that has most needs.
  std::map<int64_t, std::map<std::pair<size_t, bool>, std::vector<int64_t>>> widths;
  int64_t widest = 8;
  for (const DeltaStack& stack : stacks) {
    for (size_t level = first_level; level < stack.size(); ++level) {
      const auto delta = deltas.Get(stack[level].delta);
      for (const bool sparse : {false, true}) {
        for (const auto& [matrix, pieces] : sparse ? delta->sparse : delta->low_rank) {
          std::vector<int64_t>& ranks = widths[matrix][{level, sparse}];
          ranks.resize(std::max(ranks.size(), pieces.size()), 0);
          for (size_t i = 0; i < pieces.size() && !sparse; ++i) {
            ranks[i] = std::max(ranks[i], (pieces[i].a.size(0) + 7) / 8 * 8);
            widest = std::max(widest, ranks[i]);
          }
        }
      }
    }
  }
  for (const auto& [matrix, levels] : widths) {
    for (const auto& [key, ranks] : levels) {
      for (size_t piece = 0; piece < ranks.size(); ++piece) {
        products_[matrix].push_back(
            {static_cast<int64_t>(key.first), key.second, piece, ranks[piece], tables_++});
      }
    }
  }
  if (empty()) return;
  pointers_host_ = at::zeros({tables_, kPointers, segments}, at::kLong);
  ranks_host_ = at::zeros({tables_, segments}, at::kInt);
  scales_host_ = at::zeros({tables_, segments}, at::kFloat);
  pointers_ = at::zeros({tables_, kPointers, segments}, model.options(at::kLong));
  ranks_ = at::zeros({tables_, segments}, model.options(at::kInt));
  scales_ = at::zeros({tables_, segments}, model.options(at::kFloat));
  u_ = at::empty({rows, widest}, model.options());
}

void FrozenOverlay::Set(int64_t segment, const DeltaStack* stack) {
  if (empty()) return;
  for (const auto& [matrix, products] : products_) {
    for (const Product& product : products) {
      const size_t level = static_cast<size_t>(product.level);
      const FrozenPiece* piece = nullptr;
      double scale = 0;
      if (stack != nullptr && level < stack->size()) {
        const auto delta = deltas_.Get((*stack)[level].delta);
        const auto& all = product.sparse ? delta->sparse : delta->low_rank;
        const auto found = all.find(matrix);
        if (found != all.end() && product.piece < found->second.size()) piece = &found->second[product.piece];
        if (piece != nullptr) scale = piece->scale * (*stack)[level].scale;
      }
      auto set = [&](int64_t slot, const at::Tensor* t) {
        const void* address = t != nullptr && t->defined() ? t->const_data_ptr() : nullptr;
        pointers_host_.mutable_data_ptr<int64_t>()[(product.table * kPointers + slot) * segments_ + segment] =
            static_cast<int64_t>(reinterpret_cast<intptr_t>(address));
      };
      if (product.sparse) {
        set(kRowOffsets, piece ? &piece->row_offsets : nullptr);
        set(kColumns, piece ? &piece->columns : nullptr);
        set(kValues, piece ? &piece->values : nullptr);
        set(kColumnOffsets, piece ? &piece->column_offsets : nullptr);
        set(kRows, piece ? &piece->rows : nullptr);
        set(kOrder, piece ? &piece->order : nullptr);
      } else {
        set(kA, piece ? &piece->a : nullptr);
        set(kB, piece ? &piece->b : nullptr);
        set(kGain, piece ? &piece->gain : nullptr);
        ranks_host_.mutable_data_ptr<int32_t>()[product.table * segments_ + segment] =
            piece ? static_cast<int32_t>(piece->a.size(0)) : 0;
      }
      scales_host_.mutable_data_ptr<float>()[product.table * segments_ + segment] = static_cast<float>(scale);
    }
  }
}

void FrozenOverlay::Upload() {
  if (empty()) return;
  UploadInto(pointers_host_, pointers_);
  UploadInto(ranks_host_, ranks_);
  UploadInto(scales_host_, scales_);
}

LowRank FrozenOverlay::LowRankOf(int64_t matrix, const Product& product) const {
  const MatrixInfo& info = model_.host().matrices()[matrix];
  const int64_t* table = pointers_.const_data_ptr<int64_t>() + product.table * kPointers * segments_;
  LowRank view;
  view.a_pointers = reinterpret_cast<const void* const*>(table + kA * segments_);
  view.b_pointers = reinterpret_cast<const void* const*>(table + kB * segments_);
  view.gain_pointers = reinterpret_cast<const float* const*>(table + kGain * segments_);
  view.ranks = ranks_.const_data_ptr<int32_t>() + product.table * segments_;
  view.scale = scales_.const_data_ptr<float>() + product.table * segments_;
  view.rank = product.rank;
  view.in = info.in;
  view.out = info.out;
  return view;
}

Sparse FrozenOverlay::SparseOf(int64_t matrix, const Product& product) const {
  const MatrixInfo& info = model_.host().matrices()[matrix];
  const int64_t* table = pointers_.const_data_ptr<int64_t>() + product.table * kPointers * segments_;
  auto ints = [&](int64_t slot) { return reinterpret_cast<const int32_t* const*>(table + slot * segments_); };
  Sparse view;
  view.row_offsets = ints(kRowOffsets);
  view.columns = ints(kColumns);
  view.values = reinterpret_cast<const void* const*>(table + kValues * segments_);
  view.column_offsets = ints(kColumnOffsets);
  view.rows = ints(kRows);
  view.order = ints(kOrder);
  view.scale = scales_.const_data_ptr<float>() + product.table * segments_;
  view.in = info.in;
  view.out = info.out;
  return view;
}

void FrozenOverlay::Forward(int64_t matrix, int64_t rows, const void* x, void* y) const {
  const auto found = products_.find(matrix);
  if (found == products_.end()) return;
  const Segments segments{offsets_, segments_, rows};
  for (const Product& product : found->second) {
    if (product.sparse) {
      Launch(SparseForward, model_.type(), model_.type(), segments, SparseOf(matrix, product), x, y);
      continue;
    }
    const LowRank view = LowRankOf(matrix, product);
    void* u = u_.mutable_data_ptr();
    Launch(LowRankShrink, model_.type(), segments, view, x, u);
    Launch(LowRankExpand, model_.type(), model_.type(), segments, view, u, y);
  }
}

void FrozenOverlay::Backward(int64_t matrix, int64_t rows, const void*, const void* dy, void* dx) const {
  const auto found = products_.find(matrix);
  if (found == products_.end() || dx == nullptr) return;
  const Segments segments{offsets_, segments_, rows};
  for (const Product& product : found->second) {
    if (product.sparse) {
      Launch(SparseBackwardInput, model_.type(), segments, SparseOf(matrix, product), dy, dx);
      continue;
    }
    const LowRank view = LowRankOf(matrix, product);
    void* v = u_.mutable_data_ptr();
    Launch(LowRankShrinkBackward, model_.type(), segments, view, dy, v);
    Launch(LowRankExpandBackward, model_.type(), segments, view, v, dx);
  }
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
                           const std::vector<int64_t>& batch_rows) {
  int64_t most = 0;
  for (const int64_t rows : batch_rows) {
    most = std::max(most, rows);
    whole_[rows] = cuda::Upload(IntTensor({0, static_cast<int32_t>(rows)}), model.device());
  }
  const size_t common = CommonLevels(stacks);
  DeltaStack shared;
  if (common > 0)
    shared.assign(stacks.front().begin(), stacks.front().begin() + static_cast<int64_t>(common));
  common_ = std::make_unique<FrozenOverlay>(model, deltas, std::vector<DeltaStack>{shared}, 0, 1, most);
  common_->Set(0, &shared);
  common_->Upload();
  own_ = std::make_unique<FrozenOverlay>(model, deltas, stacks, common, segments, most);
}

Overlays FrozenStacks::For(int64_t rows) {
  Overlays overlays;
  if (!common_->empty()) {
    // The launches copy the pointer: other sizes may be asked for afterwards.
    common_->SetSegments(whole_.at(rows).const_data_ptr<int32_t>());
    overlays.push_back(common_.get());
  }
  if (!own_->empty()) overlays.push_back(own_.get());
  return overlays;
}

}  // namespace selfedit::cuda
