// safetensors: 8 bytes little-endian header length, a JSON object, the tensors end to end.
#include <cstring>
#include <string>

#include "format/dtype.h"
#include "format/error.h"
#include "format/tensor_header.h"

namespace selfedit {
namespace {

class SafetensorsHeader : public TensorHeader {
 public:
  void WriteVersion(JsonWriter* out) const override { out->Null(); }
  void WriteMetadata(JsonWriter* out) const override {
    out->BeginObject();
    for (const auto& [key, value] : metadata) {
      out->Key(key);
      out->String(value);
    }
    out->EndObject();
  }
  std::optional<std::string> MetadataString(std::string_view key) const override {
    for (const auto& [name, value] : metadata) {
      if (name == key) return value;
    }
    return std::nullopt;
  }

  std::vector<std::pair<std::string, std::string>> metadata;
};

/// A header is an object of objects of short arrays. Memory stays near the size of the text, whatever is in
/// it.
constexpr JsonLimits kLimits = {
    .depth = 3, .string_bytes = kMostStringBytes, .keys = kMostKeys, .elements = 16};

class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file) {}

  std::unique_ptr<TensorHeader> Read() {
    const std::string_view text = HeaderText();
    data_start_ = 8 + text.size();
    auto header = std::make_unique<SafetensorsHeader>();
    bool has_metadata = false;
    ParseJsonMembers(text, file_.path(), kLimits, [&](const std::string& name, const Json& value) {
      if (name != "__metadata__") {  // TensorFile refuses names that occur twice
        header->tensors.push_back(ReadTensor(name, value));
        return;
      }
      if (has_metadata) Fail("__metadata__ occurs twice");
      has_metadata = true;
      ReadMetadata(value, header.get());
    });
    SortAndCheckTiling(file_, data_start_, 1, &header->tensors);
    return header;
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw Error("FILE_FORMAT", file_.path() + ": " + what);
  }
  [[noreturn]] void FailTensor(const std::string& name, const std::string& what) const {
    Fail("tensor " + QuoteForMessage(name) + ": " + what);
  }

  std::string_view HeaderText() const {
    if (file_.size() < 8) {
      throw Error("FILE_TRUNCATED", file_.path() + ": " + std::to_string(file_.size()) +
                                        " bytes; a safetensors file begins with 8 bytes of header length");
    }
    uint64_t length = 0;
    std::memcpy(&length, file_.data(), sizeof length);
    // The brace comes first: it tells a truncated file from one that is no safetensors at all.
    if (file_.size() > 8 && file_.data()[8] != '{') {
      Fail("expected a safetensors header, which begins with '{', found " + DescribeStart(file_));
    }
    if (length > kMostHeaderBytes) {
      Fail("header of " + std::to_string(length) + " bytes; at most " + std::to_string(kMostHeaderBytes) +
           " are allowed");
    }
    if (length > file_.size() - 8) {
      throw Error("FILE_TRUNCATED", file_.path() + ": header of " + std::to_string(length) +
                                        " bytes, the file has " + std::to_string(file_.size()) + " bytes");
    }
    if (length == 0) Fail("empty header; expected at least {}");
    return {reinterpret_cast<const char*>(file_.data()) + 8, static_cast<size_t>(length)};
  }

  void ReadMetadata(const Json& value, SafetensorsHeader* header) const {
    if (!value.AsObject()) Fail(std::string("__metadata__: expected an object, found ") + value.TypeName());
    for (const auto& [key, entry] : *value.AsObject()) {
      if (!entry.AsString()) {
        Fail("__metadata__ " + QuoteForMessage(key) + ": expected a string, found " + entry.TypeName());
      }
      header->metadata.emplace_back(key, *entry.AsString());
    }
  }

  TensorInfo ReadTensor(const std::string& name, const Json& value) const {
    const Json* dtype = value.Find("dtype");
    const Json* shape = value.Find("shape");
    const Json* offsets = value.Find("data_offsets");
    if (!dtype || !dtype->AsString() || !shape || !shape->AsArray() || !offsets || !offsets->AsArray() ||
        value.AsObject()->size() != 3) {
      FailTensor(name, "expected an object of \"dtype\" (string), \"shape\" and \"data_offsets\" (arrays)");
    }
    TensorInfo tensor;
    tensor.name = name;
    const std::optional<DType> type = DTypeFromSafetensors(*dtype->AsString());
    if (!type) {
      FailTensor(name, "type " + QuoteForMessage(*dtype->AsString()) + " is not supported; expected one of " +
                           SafetensorsTypesText());
    }
    tensor.dtype = *type;
    ReadShape(*shape->AsArray(), &tensor);
    uint64_t expected = 0;
    if (!TensorBytes(tensor.dtype, tensor.shape, &expected)) {
      FailTensor(name, "shape " + ShapeText(tensor.shape) + " is larger than 64 bits can count");
    }
    ReadOffsets(*offsets->AsArray(), &tensor);
    if (tensor.bytes != expected) {
      FailTensor(name, std::string(DTypeName(tensor.dtype)) + " " + ShapeText(tensor.shape) + " needs " +
                           std::to_string(expected) + " bytes, data_offsets give " +
                           std::to_string(tensor.bytes));
    }
    return tensor;
  }

  void ReadShape(const Json::Array& shape, TensorInfo* tensor) const {
    if (shape.size() > kMostDimensions) {
      FailTensor(tensor->name, std::to_string(shape.size()) + " dimensions; at most " +
                                   std::to_string(kMostDimensions) + " are allowed");
    }
    for (const Json& dimension : shape) {
      int64_t size = 0;
      if (!dimension.AsInt(&size) || size < 0) {
        FailTensor(tensor->name, "\"shape\": expected whole numbers from 0");
      }
      tensor->shape.push_back(size);
    }
  }

  void ReadOffsets(const Json::Array& offsets, TensorInfo* tensor) const {
    uint64_t begin = 0, end = 0;
    if (offsets.size() != 2 || !offsets[0].AsUint(&begin) || !offsets[1].AsUint(&end) || begin > end) {
      FailTensor(tensor->name, "\"data_offsets\": expected two whole numbers, begin <= end");
    }
    tensor->bytes = end - begin;
    if (__builtin_add_overflow(begin, data_start_, &tensor->offset)) {
      FailTensor(tensor->name, "\"data_offsets\": " + std::to_string(begin) + " is beyond any file");
    }
  }

  const MappedFile& file_;
  uint64_t data_start_ = 0;
};

}  // namespace

std::unique_ptr<TensorHeader> ReadSafetensorsHeader(std::shared_ptr<const MappedFile> file) {
  return Reader(*file).Read();
}

}  // namespace selfedit
