#include "core/finite.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <string>

namespace selfedit {
namespace {

// What a thread takes at a time, a multiple of the size of every type; and what all read between two reports.
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr int64_t kReportBytes = int64_t{128} << 20;

// NaN and infinity have an exponent of all ones, and nothing else has: `least`, the lowest bit of the
// exponent, added to the bits without the sign carries into the sign's place just then.
template <typename T>
bool NoneAllOnes(const void* values, int64_t count, T least) {
  constexpr T kSign = T{1} << (8 * sizeof(T) - 1);
  // Four pages side by side: the processor fetches ahead only within a page, and one at a time leaves a third
  // of the memory's bandwidth unused.
  constexpr int64_t kPage = 4096 / sizeof(T);
  const T* bits = static_cast<const T*>(values);
  const auto carry = [=](T x) { return static_cast<T>((x & ~kSign) + least); };
  T sum = 0;
  int64_t i = 0;
  for (; i + 4 * kPage <= count; i += 4 * kPage) {
    const T* page = bits + i;
    for (int64_t j = 0; j < kPage; ++j) {
      sum |=
          carry(page[j]) | carry(page[j + kPage]) | carry(page[j + 2 * kPage]) | carry(page[j + 3 * kPage]);
    }
  }
  for (; i < count; ++i) sum |= carry(bits[i]);
  return (sum & kSign) == 0;
}

// Bytes [begin, end) of tensor number `tensor`.
struct Piece {
  size_t tensor;
  int64_t begin, end;
};

bool CheckPiece(const StoredTensor& tensor, const Piece& piece) {
  const auto& [file, info] = tensor;
  file->Prefetch(*info, piece.begin, piece.end);
  return AllFinite(info->dtype, file->Data(*info) + piece.begin,
                   (piece.end - piece.begin) / DTypeBlockBytes(info->dtype));
}

// Whichever thread is free takes the next piece: a thread that waits for its core or for the disk holds
// nobody up.
void CheckPieces(const std::vector<StoredTensor>& tensors, const std::vector<Piece>& pieces) {
  std::atomic<size_t> next{0}, bad{tensors.size()};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (size_t i; (i = next++) < pieces.size();) {
      const size_t tensor = pieces[i].tensor;
      if (CheckPiece(tensors[tensor], pieces[i])) continue;
      size_t first = bad;
      while (tensor < first && !bad.compare_exchange_weak(first, tensor)) {
      }
    }
  });
  if (bad < tensors.size()) FailNotFinite(tensors[bad]);
}

}  // namespace

bool AllFinite(DType dtype, const void* values, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return NoneAllOnes<uint32_t>(values, count, uint32_t{1} << 23);
    case DType::kBF16:
      return NoneAllOnes<uint16_t>(values, count, uint16_t{1} << 7);
    case DType::kF64:
      return NoneAllOnes<uint64_t>(values, count, uint64_t{1} << 52);
    default:
      throw Error("INTERNAL", std::string("AllFinite does not know ") + DTypeName(dtype));
  }
}

void FailNotFinite(const StoredTensor& tensor) {
  throw Error("WEIGHT_NOT_FINITE",
              Naming(*tensor.file, *tensor.info) + " holds NaN or infinite values; expected finite weights");
}

void CheckFinite(std::vector<StoredTensor> tensors, const std::function<void(int64_t bytes)>& checked) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    if (a.file != b.file) return a.file->path() < b.file->path();
    return a.info->offset < b.info->offset;
  });
  std::vector<Piece> pieces;
  int64_t bytes = 0;
  const auto finish = [&] {
    CheckPieces(tensors, pieces);
    checked(bytes);
    pieces.clear();
    bytes = 0;
  };
  for (size_t t = 0; t < tensors.size(); ++t) {
    const int64_t size = static_cast<int64_t>(tensors[t].info->bytes);
    for (int64_t begin = 0; begin < size; begin += kPieceBytes) {
      pieces.push_back({t, begin, std::min(size, begin + kPieceBytes)});
      bytes += pieces.back().end - begin;
      if (bytes >= kReportBytes) finish();
    }
  }
  if (!pieces.empty()) finish();
}

}  // namespace selfedit
