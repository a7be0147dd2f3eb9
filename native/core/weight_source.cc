#include "core/weight_source.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "core/finite.h"
#include "core/gguf_names.h"
#include "cpu/kernels.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

// Of a file's bytes that one thread converts at a time.
constexpr int64_t kPieceBytes = 1 << 20;

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// "3 tensor(s) missing: a, b, c"; at most a hundred by name.
std::string Listed(const char* what, const std::vector<std::string>& names) {
  constexpr size_t kMost = 100;
  std::string text = std::to_string(names.size()) + " tensor(s) " + what + ": ";
  for (size_t i = 0; i < names.size() && i < kMost; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > kMost ? text + ", …" : text;
}

}  // namespace

WeightSource::WeightSource(const LoadSpec& spec, const JobControl& control) : spec_(spec), control_(control) {
  for (const std::string& path : spec.files) {
    auto file = TensorFile::Open(path, spec.gguf ? Format::kGguf : Format::kSafetensors);
    for (const TensorInfo& info : file->tensors()) {
      const std::string name = spec.gguf ? FromGgufName(info.name, spec) : info.name;
      if (name.empty()) {
        unexpected_.push_back(info.name);
        continue;
      }
      if (!sources_.emplace(name, StoredTensor{file, &info}).second) {
        throw Error("FILE_FORMAT", path + ": tensor \"" + info.name + "\" is present twice");
      }
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
  const StoredTensor &own = a->second, &shared = b->second;
  const bool same = own.info->dtype == shared.info->dtype && own.info->shape == shared.info->shape &&
                    std::memcmp(own.file->Data(*own.info), shared.file->Data(*shared.info),
                                static_cast<size_t>(own.info->bytes)) == 0;
  if (!same) {
    throw Error("TENSOR_UNEXPECTED", own.file->path() + ": tensor \"" + own.info->name +
                                         "\" differs from the embedding, to which the configuration ties it");
  }
  own.file->Forget(*own.info);
}

void WeightSource::Finish() {
  for (const auto& [name, source] : sources_) {
    const bool buffer = name.find("rotary_emb.inv_freq") != std::string::npos;
    if (used_.count(name) == 0 && !buffer) unexpected_.push_back(source.info->name);
  }
  if (!missing_.empty() || !unexpected_.empty()) {
    std::string text;
    if (!missing_.empty()) text = Listed("missing", missing_);
    if (!unexpected_.empty())
      text += (text.empty() ? "" : "; ") + Listed("not of this architecture", unexpected_);
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
  throw Error("TENSOR_SHAPE", source.file->path() + ": tensor \"" + source.info->name + "\" is " +
                                  ShapeText(source.info->shape) + ", the configuration needs " +
                                  ShapeText(shape));
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
  const uint8_t* data = source.file->Data(info);
  // A vector's permuted heads are made of its elements.
  const int64_t rows = permuted_heads > 0 ? shape[0] : info.Rows();
  const int64_t width = info.Elements() / rows;
  at::Tensor tensor = at::empty(shape, type);
  if (width < info.RowLength() || info.dtype == DType::kF64 || type == at::kDouble) {
    ReadWide(info, data, tensor);
    if (permuted_heads > 0) {
      // GGUF keeps rotary pairs next to each other: [heads, half, 2, in] -> [heads, 2, half, in].
      const int64_t half = shape[0] / permuted_heads / 2;
      tensor = tensor.view({permuted_heads, half, 2, -1}).transpose(1, 2).reshape(shape).contiguous();
    }
    if (!at::isfinite(tensor).all().item<bool>()) FailNotFinite(source);
    return tensor;
  }
  // Converted, put in its place and checked while it is in the cache.
  const int64_t half = permuted_heads > 0 ? rows / permuted_heads / 2 : 0;
  const auto place = [&](int64_t r) {
    return half > 0 ? (r / (2 * half) * 2 + r % 2) * half + r % (2 * half) / 2 : r;
  };
  std::atomic<bool> finite{true};
  at::parallel_for(0, rows, std::max<int64_t>(1, (1 << 16) / width), [&](int64_t b, int64_t e) {
    std::vector<float> row(type == at::kFloat ? 0 : width);
    bool good = true;
    // In pieces, each forgotten before the next: the file and the model are never both resident.
    const int64_t piece = std::max<int64_t>(1, kPieceBytes / static_cast<int64_t>(info.RowBytes()));
    for (int64_t first = b; first < e; first += piece) {
      const int64_t last = std::min(e, first + piece);
      source.file->Prefetch(info, first * info.RowBytes(), last * info.RowBytes());
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
      source.file->Forget(info, first * info.RowBytes(), last * info.RowBytes());
    }
    if (!good) finite = false;
  });
  if (!finite) FailNotFinite(source);
  source.file->Forget(info);
  return tensor;
}

void WeightSource::ReadWide(const TensorInfo& info, const uint8_t* data, const at::Tensor& tensor) {
  at::Tensor wide;
  if (info.dtype == DType::kF64) {
    wide = at::empty(tensor.sizes(), at::kDouble);
    std::memcpy(wide.mutable_data_ptr(), data, info.bytes);
  } else {
    wide = at::empty(tensor.sizes(), at::kFloat);
    Dequantize(info, data, 0, info.Rows(), wide.mutable_data_ptr<float>());
  }
  tensor.copy_(wide);
}

}  // namespace selfedit
