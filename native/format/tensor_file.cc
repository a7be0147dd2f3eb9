#include "format/tensor_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "format/dtype.h"
#include "format/error.h"
#include "format/mapped_file.h"
#include "format/tensor_header.h"

namespace selfedit {

static_assert(std::endian::native == std::endian::little, "both formats are little-endian and read in place");

int64_t TensorInfo::Elements() const { return Rows() * RowLength(); }

int64_t TensorInfo::Rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

uint64_t TensorInfo::RowBytes() const {
  const DTypeTraits& traits = Traits(dtype);
  return static_cast<uint64_t>(RowLength() / traits.block_elements * traits.block_bytes);
}

bool TensorBytes(DType dtype, const std::vector<int64_t>& shape, uint64_t* bytes) {
  const DTypeTraits& traits = Traits(dtype);
  if ((shape.empty() ? 1 : shape.back()) % traits.block_elements != 0) return false;
  // Zeros are left out at first, so that no partial product can overflow later either.
  int64_t product = traits.block_bytes;
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return false;
    if (dimension == 0) empty = true;
    if (dimension > 0 && __builtin_mul_overflow(product, dimension, &product)) return false;
  }
  *bytes = empty ? 0 : static_cast<uint64_t>(product / traits.block_elements);
  return true;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string DescribeStart(const MappedFile& file) {
  const auto starts = [&file](std::string_view text, size_t at = 0) {
    return file.size() >= at + text.size() && std::memcmp(file.data() + at, text.data(), text.size()) == 0;
  };
  if (starts("PK\x03\x04") || (file.size() >= 2 && file.data()[0] == 0x80 && file.data()[1] <= 5)) {
    throw Error("FILE_UNSAFE",
                file.path() +
                    ": looks like a PyTorch pickle or zip archive, which can run code when it is "
                    "read; expected safetensors or GGUF. Convert to safetensors first");
  }
  if (starts("version https://git-lfs"))
    return "a Git LFS pointer (the file itself is fetched by: git lfs pull)";
  if (starts("GGUF")) return "a GGUF file";
  if (starts("ggml") || starts("tjgg") || starts("lmgg") || starts("algg")) {
    return "a GGML file from before GGUF (convert it with llama.cpp)";
  }
  if (starts("{", 8)) return "a safetensors file";
  if (starts("<")) return "a web page or XML";
  std::string text;
  AppendJsonString(
      std::string_view(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 8)), &text);
  return "bytes " + text;
}

void SortAndCheckTiling(const MappedFile& file, uint64_t start, uint64_t alignment,
                        std::vector<TensorInfo>* tensors) {
  // Empty tensors before others of the same offset; stable, so that the order never depends on the library.
  std::stable_sort(tensors->begin(), tensors->end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  uint64_t expected = start;  // where the next tensor has to begin
  uint64_t end = start;       // of the last one
  const TensorInfo* before = nullptr;
  for (const TensorInfo& tensor : *tensors) {
    // Checked first: then all sums below stay within the size of the file.
    if (tensor.offset > file.size() || tensor.bytes > file.size() - tensor.offset) {
      throw Error("FILE_TRUNCATED", file.path() + ": tensor " + QuoteForMessage(tensor.name) + " needs " +
                                        std::to_string(tensor.bytes) + " bytes from byte " +
                                        std::to_string(tensor.offset) + ", the file has " +
                                        std::to_string(file.size()) + " bytes");
    }
    if (tensor.offset != expected) {
      throw Error("FILE_FORMAT", file.path() + ": tensor " + QuoteForMessage(tensor.name) +
                                     " starts at byte " + std::to_string(tensor.offset) + ", expected " +
                                     std::to_string(expected) +
                                     (tensor.offset > expected ? " (a hole after " : " (an overlap with ") +
                                     (before ? QuoteForMessage(before->name) : "the header") + ")");
    }
    end = tensor.offset + tensor.bytes;
    expected = end + (alignment - (end - start) % alignment) % alignment;
    before = &tensor;
  }
  if (file.size() > expected) {
    throw Error("FILE_FORMAT", file.path() + ": " + std::to_string(file.size() - end) +
                                   " bytes after the last tensor, which ends at byte " + std::to_string(end));
  }
}

std::shared_ptr<const TensorFile> TensorFile::Open(const std::string& path, Format format) {
  return Open(MappedFile::Open(path), format);
}

std::shared_ptr<const TensorFile> TensorFile::Open(std::shared_ptr<const MappedFile> file, Format format) {
  if (format == Format::kDetect) {
    const std::string_view start(reinterpret_cast<const char*>(file->data()),
                                 std::min<size_t>(file->size(), 9));
    const std::string& path = file->path();
    const auto named = [&path](std::string_view extension) {
      return path.size() >= extension.size() &&
             path.compare(path.size() - extension.size(), extension.size(), extension) == 0;
    };
    if (start.substr(0, 4) == "GGUF") {
      format = Format::kGguf;
    } else if (start.size() == 9 && start[8] == '{') {
      format = Format::kSafetensors;
    } else if (named(".gguf")) {  // the reader says what is wrong
      format = Format::kGguf;
    } else if (named(".safetensors")) {
      format = Format::kSafetensors;
    } else if (file->size() == 0) {
      throw Error("FILE_TRUNCATED", path + ": the file is empty; expected safetensors or GGUF");
    } else {
      throw Error("FILE_FORMAT", path + ": expected safetensors or GGUF, found " + DescribeStart(*file));
    }
  }
  auto header = format == Format::kGguf ? ReadGgufHeader(file) : ReadSafetensorsHeader(file);
  return std::shared_ptr<const TensorFile>(new TensorFile(std::move(file), format, std::move(header)));
}

TensorFile::TensorFile(std::shared_ptr<const MappedFile> file, Format format,
                       std::unique_ptr<TensorHeader> header)
    : file_(std::move(file)), format_(format), header_(std::move(header)), by_name_(header_->tensors.size()) {
  const std::vector<TensorInfo>& all = header_->tensors;
  std::iota(by_name_.begin(), by_name_.end(), 0);
  std::sort(by_name_.begin(), by_name_.end(),
            [&all](uint32_t a, uint32_t b) { return all[a].name < all[b].name; });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(), [&all](uint32_t a, uint32_t b) {
    return all[a].name == all[b].name;
  });
  if (twice != by_name_.end()) {
    throw Error("FILE_FORMAT", path() + ": tensor " + QuoteForMessage(all[*twice].name) + " occurs twice");
  }
}

TensorFile::~TensorFile() = default;

const std::string& TensorFile::path() const { return file_->path(); }

const std::vector<TensorInfo>& TensorFile::tensors() const { return header_->tensors; }

const TensorInfo* TensorFile::Find(std::string_view name) const {
  const std::vector<TensorInfo>& all = header_->tensors;
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [&all](uint32_t i, std::string_view key) { return all[i].name < key; });
  return found != by_name_.end() && all[*found].name == name ? &all[*found] : nullptr;
}

const uint8_t* TensorFile::Data(const TensorInfo& tensor) const {
  // A TensorInfo of another file must not become a wild pointer.
  if (tensor.offset > file_->size() || tensor.bytes > file_->size() - tensor.offset) {
    throw Error("INTERNAL", path() + ": tensor " + QuoteForMessage(tensor.name) + " is not of this file");
  }
  return file_->data() + tensor.offset;
}

void TensorFile::Prefetch(const TensorInfo& tensor, uint64_t begin, uint64_t end) const {
  file_->Prefetch(static_cast<size_t>(tensor.offset + begin), static_cast<size_t>(end - begin));
}

void TensorFile::Forget(const TensorInfo& tensor) const { Forget(tensor, 0, tensor.bytes); }

void TensorFile::Forget(const TensorInfo& tensor, uint64_t begin, uint64_t end) const {
  file_->Forget(static_cast<size_t>(tensor.offset + begin), static_cast<size_t>(end - begin));
}

std::optional<std::string> TensorFile::MetadataString(std::string_view key) const {
  return header_->MetadataString(key);
}

std::string TensorFile::HeaderJson() const {
  JsonWriter out;
  out.BeginObject();
  out.Key("format");
  out.String(format_ == Format::kGguf ? "gguf" : "safetensors");
  out.Key("version");
  header_->WriteVersion(&out);
  out.Key("metadata");
  header_->WriteMetadata(&out);
  out.Key("tensors");
  out.BeginArray();
  for (const TensorInfo& tensor : header_->tensors) {
    out.BeginObject();
    out.Key("name");
    out.String(tensor.name);
    out.Key("dtype");
    out.String(DTypeName(tensor.dtype));
    out.Key("shape");
    out.BeginArray();
    for (const int64_t dimension : tensor.shape) out.Int(dimension);
    out.EndArray();
    out.Key("offset");
    out.Uint(tensor.offset);
    out.Key("bytes");
    out.Uint(tensor.bytes);
    out.EndObject();
  }
  out.EndArray();
  out.EndObject();
  return out.Take();
}

}  // namespace selfedit
