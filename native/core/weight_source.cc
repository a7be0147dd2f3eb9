#include "core/weight_source.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/finite.h"
#include "core/gguf_names.h"
#include "cpu/kernels.h"
#include "format/json.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

// Of a file's bytes that one thread converts at a time.
constexpr int64_t kPieceBytes = 1 << 20;

// What a task of a parallel loop has at least to convert.
constexpr int64_t kGrainValues = 1 << 16;

// Calls body(first, last) for the rows of a tensor while they are `wanted`, in pieces by all threads, each
// forgotten before the next: the file and what is made of it are never both resident.
template <typename Body>
void ForPieces(const StoredTensor& source, const std::atomic<bool>& wanted, const Body& body) {
  const TensorInfo& info = *source.info;
  if (info.bytes == 0) return;
  const auto bytes = static_cast<int64_t>(info.RowBytes());
  const int64_t piece = std::max<int64_t>(1, kPieceBytes / bytes);
  at::parallel_for(0, info.Rows(), std::max<int64_t>(1, kGrainValues / info.RowLength()),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t first = begin; first < end && wanted; first += piece) {
                       const int64_t last = std::min(end, first + piece);
                       source.file->Prefetch(info, first * bytes, last * bytes);
                       body(first, last);
                       source.file->Forget(info, first * bytes, last * bytes);
                     }
                   });
  source.file->Forget(info);  // the pages that two pieces share
}

// `3 tensor(s) missing: a, b, c`; at most a hundred by name.
template <typename Item, typename Name>
std::string Listed(const char* what, const std::vector<Item>& items, const Name& name) {
  constexpr size_t kMost = 100;
  std::string text = std::to_string(items.size()) + " tensor(s) " + what + ": ";
  for (size_t i = 0; i < items.size() && i < kMost; ++i) text += (i ? ", " : "") + name(items[i]);
  return items.size() > kMost ? text + ", …" : text;
}

}  // namespace

WeightSource::WeightSource(const LoadSpec& spec, const JobControl& control) : spec_(spec), control_(control) {
  for (const std::string& path : spec.files) {
    auto file = TensorFile::Open(path, spec.gguf ? Format::kGguf : Format::kSafetensors);
    for (const TensorInfo& info : file->tensors()) {
      const std::string name = spec.gguf ? FromGgufName(info.name, spec) : info.name;
      if (name.empty()) {
        unexpected_.push_back({file, &info});
        continue;
      }
      if (!sources_.emplace(name, StoredTensor{file, &info}).second)
        throw Error("FILE_FORMAT", Naming(*file, info) + " is present twice");
      total_ += static_cast<double>(info.bytes);
    }
  }
}

void WeightSource::Split(const std::string& name, int64_t in,
                         const std::vector<std::pair<std::string, int64_t>>& name_and_rows) {
  const auto found = sources_.find(name);
  if (found == sources_.end()) {
    missing_.push_back(name);
    for (const auto& part : name_and_rows) split_.insert(part.first);
    return;
  }
  const StoredTensor whole = found->second;
  int64_t rows = 0;
  for (const auto& part : name_and_rows) rows += part.second;
  CheckShape(whole, {rows, in});
  sources_.erase(found);
  uint64_t offset = whole.info->offset;
  for (const auto& [part, count] : name_and_rows) {
    TensorInfo info = *whole.info;
    info.shape[0] = count;
    info.offset = offset;
    info.bytes = static_cast<uint64_t>(count) * whole.info->RowBytes();
    offset += info.bytes;
    parts_.push_back(std::move(info));
    if (!sources_.emplace(part, StoredTensor{whole.file, &parts_.back()}).second) {
      throw Error("FILE_FORMAT",
                  whole.file->path() + ": both \"" + name + "\" and \"" + part + "\" are present");
    }
  }
}

at::Tensor WeightSource::Take(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType type,
                              int64_t permuted_heads) {
  const auto found = sources_.find(name);
  if (found == sources_.end()) {
    if (split_.count(name) == 0) missing_.push_back(name);
    return at::zeros({1}, type);
  }
  control_.Check();
  used_.insert(name);
  const StoredTensor source = found->second;
  CheckShape(source, shape);
  CheckReal(*source.file, *source.info);
  if (std::optional<at::Tensor> mapped = Mapped(source, shape, type, permuted_heads)) return *mapped;
  at::Tensor tensor = Read(source, shape, type, permuted_heads);
  Report(static_cast<int64_t>(source.info->bytes));
  return tensor;
}

void WeightSource::CheckTied(const std::string& head, const std::string& embedding) {
  Ignore(head);
  const auto a = sources_.find(head), b = sources_.find(embedding);
  if (a == sources_.end() || b == sources_.end()) return;
  const StoredTensor own = a->second, shared = b->second;
  std::atomic<bool> same{own.info->dtype == shared.info->dtype && own.info->shape == shared.info->shape};
  if (same) {
    const uint8_t *left = own.file->Data(*own.info), *right = shared.file->Data(*shared.info);
    const auto bytes = static_cast<int64_t>(own.info->RowBytes());
    ForPieces(own, same, [&](int64_t first, int64_t last) {
      const int64_t begin = first * bytes, end = last * bytes;
      if (std::memcmp(left + begin, right + begin, static_cast<size_t>(end - begin)) != 0) same = false;
      shared.file->Forget(*shared.info, begin, end);
    });
  }
  if (!same) {
    throw Error("TENSOR_UNEXPECTED", Naming(*own.file, *own.info) +
                                         " differs from the embedding, to which the configuration ties it");
  }
}

bool WeightSource::FitsBFloat16(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto found = sources_.find(name);
  if (found == sources_.end()) return false;
  const TensorInfo& info = *found->second.info;
  if (info.dtype == DType::kBF16) return true;
  CheckShape(found->second, shape);
  std::atomic<bool> fits{true};
  ForPieces(found->second, fits, [&](int64_t first, int64_t last) {
    std::vector<float> row(static_cast<size_t>(info.RowLength()));
    for (int64_t r = first; r < last && fits; ++r) {
      Dequantize(info, found->second.file->Data(info), r, 1, row.data());
      uint32_t beyond = 0;
      for (const float value : row) beyond |= std::bit_cast<uint32_t>(value);
      if ((beyond & 0xFFFF) != 0) fits = false;
    }
  });
  return fits;
}

void WeightSource::Finish() {
  for (const auto& [name, source] : sources_) {
    const bool buffer = name.find("rotary_emb.inv_freq") != std::string::npos;
    if (used_.count(name) == 0 && !buffer) unexpected_.push_back(source);
  }
  if (!missing_.empty() || !unexpected_.empty()) {
    std::string text;
    if (!missing_.empty()) text = Listed("missing", missing_, [](const std::string& name) { return name; });
    if (!unexpected_.empty()) {
      const bool one = spec_.files.size() == 1;
      const auto name = [one](const StoredTensor& tensor) {
        return QuoteForMessage(tensor.info->name) + (one ? "" : " in " + tensor.file->path());
      };
      text += (text.empty() ? "" : "; ") + Listed("not of this architecture", unexpected_, name);
    }
    throw Error(missing_.empty() ? "TENSOR_UNEXPECTED" : "TENSOR_MISSING", spec_.files.at(0) + ": " + text);
  }
  CheckFinite(std::move(mapped_), [this](int64_t bytes) {
    control_.Check();
    Report(bytes);
  });
  if (done_ < total_) control_.Report({total_, total_, static_cast<double>(used_.size() + 1), NAN});
}

void WeightSource::CheckShape(const StoredTensor& source, const std::vector<int64_t>& shape) {
  if (source.info->shape == shape) return;
  throw Error("TENSOR_SHAPE", Naming(*source.file, *source.info) + " is " + ShapeText(source.info->shape) +
                                  ", the configuration needs " + ShapeText(shape));
}

void WeightSource::Report(int64_t bytes) {
  done_ += static_cast<double>(bytes);
  control_.Report({done_, total_, static_cast<double>(used_.size()), NAN});
}

std::optional<at::Tensor> WeightSource::Mapped(const StoredTensor& source, const std::vector<int64_t>& shape,
                                               at::ScalarType type, int64_t permuted_heads) {
  const DType stored = source.info->dtype;
  const uint8_t* data = source.file->Data(*source.info);
  const bool same = (stored == DType::kF32 && type == at::kFloat) ||
                    (stored == DType::kBF16 && type == at::kBFloat16) ||
                    (stored == DType::kF64 && type == at::kDouble);
  if (!same || permuted_heads > 0 || reinterpret_cast<uintptr_t>(data) % 8 != 0) return std::nullopt;
  mapped_.push_back(source);
  return at::from_blob(
      const_cast<uint8_t*>(data), shape, [file = source.file](void*) {}, at::TensorOptions().dtype(type));
}

at::Tensor WeightSource::Read(const StoredTensor& source, const std::vector<int64_t>& shape,
                              at::ScalarType type, int64_t permuted_heads) {
  const TensorInfo& info = *source.info;
  // A float64 model holds all that a file may hold. A vector's permuted heads are made of its elements.
  if (type == at::kDouble || (permuted_heads > 0 && shape.size() == 1)) {
    at::Tensor tensor = RealValues(*source.file, info, at::TensorOptions().dtype(type));
    if (permuted_heads > 0) tensor = Unpermuted(tensor, permuted_heads);
    if (!at::isfinite(tensor).all().item<bool>()) FailNotFinite(source);
    source.file->Forget(info);
    return tensor;
  }
  // Converted, put in its place and checked while it is in the cache.
  const uint8_t* data = source.file->Data(info);
  const int64_t width = info.RowLength();
  at::Tensor tensor = at::empty(shape, type);
  const int64_t half = permuted_heads > 0 ? info.Rows() / permuted_heads / 2 : 0;
  const auto place = [&](int64_t r) {
    return half > 0 ? (r / (2 * half) * 2 + r % 2) * half + r % (2 * half) / 2 : r;
  };
  std::atomic<bool> finite{true};
  ForPieces(source, finite, [&](int64_t first, int64_t last) {
    std::vector<float> row(type == at::kFloat ? 0 : width);
    bool good = true;
    for (int64_t r = first; r < last; ++r) {
      if (type == at::kFloat) {
        float* to = tensor.mutable_data_ptr<float>() + place(r) * width;
        Dequantize(info, data, r, 1, to);
        good &= AllFinite(DType::kF32, to, width);
      } else {
        Dequantize(info, data, r, 1, row.data());
        auto* to = static_cast<uint16_t*>(tensor.mutable_data_ptr()) + place(r) * width;
        cpu::SplitBf16(row.data(), width, 1, 1, width, 1, to);
        good &= AllFinite(DType::kBF16, to, width);
      }
    }
    if (!good) finite = false;
  });
  if (!finite) FailNotFinite(source);
  return tensor;
}

}  // namespace selfedit
