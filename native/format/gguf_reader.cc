// GGUF versions 2 and 3, little-endian: magic, version, counts, key–value metadata, tensor infos, padding,
// tensors. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "format/dtype.h"
#include "format/error.h"
#include "format/tensor_header.h"

namespace selfedit {
namespace {

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};
constexpr const char* kTypeNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                      "bool",  "string", "array",  "uint64", "int64",  "float64"};
/// Fewest bytes of one value, to see whether a count is plausible before walking it.
constexpr uint64_t kLeastBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
constexpr int kMostNesting = 4;

/// Reads forward through the header; every step is checked against the file and the header limit.
class Cursor {
 public:
  Cursor(const MappedFile& file, uint64_t at) : file_(file), at_(at) {}

  uint64_t at() const { return at_; }
  uint64_t Left() const { return std::min<uint64_t>(file_.size(), kMostHeaderBytes) - at_; }

  [[noreturn]] void Fail(const std::string& what) const {
    throw Error("FILE_FORMAT", file_.path() + ": " + what);
  }

  template <typename T>
  T Take(const std::string& what) {
    Need(sizeof(T), what);
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string_view String(const std::string& what) {
    const uint64_t length = Take<uint64_t>(what);
    if (length > kMostStringBytes) {
      Fail(what + ": string of " + std::to_string(length) + " bytes; at most " +
           std::to_string(kMostStringBytes) + " are allowed");
    }
    Need(length, what);
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + at_, length);
    at_ += length;
    return text;
  }

  /// A key or tensor name: UTF-8.
  std::string Name(const std::string& what) {
    const std::string_view name = String(what);
    if (!IsValidUtf8(name)) Fail(what + " " + QuoteForMessage(name) + " is not valid UTF-8");
    return std::string(name);
  }

  /// Refuses a count that the rest of the file cannot hold, before anything is allocated for it.
  void Plausible(uint64_t count, uint64_t least_bytes, uint64_t most, const std::string& what) const {
    if (count > most)
      Fail(what + ": " + std::to_string(count) + "; at most " + std::to_string(most) + " are allowed");
    if (count > Left() / least_bytes) {
      throw Error(file_.size() > kMostHeaderBytes ? "FILE_FORMAT" : "FILE_TRUNCATED",
                  file_.path() + ": " + what + ": " + std::to_string(count) + " do not fit into the " +
                      std::to_string(Left()) + " bytes that are left" +
                      (file_.size() > kMostHeaderBytes ? " for the header" : ""));
    }
  }

  /// Refuses array elements beyond what all arrays together may have.
  void TakeElements(uint64_t count, uint64_t least_bytes, const std::string& what) {
    Plausible(count, least_bytes, UINT64_MAX, what);
    if (count > kMostElements - elements_) {
      Fail(what + ": " + std::to_string(count) + " after " + std::to_string(elements_) + "; at most " +
           std::to_string(kMostElements) + " are allowed in all arrays of the file");
    }
    elements_ += count;
  }

 private:
  void Need(uint64_t bytes, const std::string& what) const {
    if (bytes <= Left()) return;
    if (bytes > file_.size() - at_) {
      throw Error("FILE_TRUNCATED", file_.path() + ": the file ends at byte " + std::to_string(file_.size()) +
                                        " within " + what + ", which needs " + std::to_string(bytes) +
                                        " bytes from byte " + std::to_string(at_));
    }
    Fail("header of more than " + std::to_string(kMostHeaderBytes) + " bytes");
  }

  const MappedFile& file_;
  uint64_t at_;
  uint64_t elements_ = 0;
};

/// Walks one metadata value, and writes it where `out` is given. The same code checks at opening and writes
/// later.
void WalkValue(Cursor* cursor, uint32_t type, int nesting, const std::string& what, JsonWriter* out) {
  const auto number = [&]<typename T>(T value, void (JsonWriter::*write)(T)) {
    if (out) (out->*write)(value);
  };
  switch (type) {
    case kUint8:
      return number(uint64_t{cursor->Take<uint8_t>(what)}, &JsonWriter::Uint);
    case kInt8:
      return number(int64_t{cursor->Take<int8_t>(what)}, &JsonWriter::Int);
    case kUint16:
      return number(uint64_t{cursor->Take<uint16_t>(what)}, &JsonWriter::Uint);
    case kInt16:
      return number(int64_t{cursor->Take<int16_t>(what)}, &JsonWriter::Int);
    case kUint32:
      return number(uint64_t{cursor->Take<uint32_t>(what)}, &JsonWriter::Uint);
    case kInt32:
      return number(int64_t{cursor->Take<int32_t>(what)}, &JsonWriter::Int);
    case kUint64:
      return number(cursor->Take<uint64_t>(what), &JsonWriter::Uint);
    case kInt64:
      return number(cursor->Take<int64_t>(what), &JsonWriter::Int);
    case kFloat32:
      return number(cursor->Take<float>(what), &JsonWriter::Float);
    case kFloat64:
      return number(cursor->Take<double>(what), &JsonWriter::Double);
    case kString: {
      const std::string_view text = cursor->String(what);
      // Some vocabularies hold bytes that are no text. In long strings they would only swell the header as
      // JSON.
      if (text.size() > kMostBrokenStringBytes && !IsValidUtf8(text)) {
        cursor->Fail(what + ": string of " + std::to_string(text.size()) +
                     " bytes that is not UTF-8; at most " + std::to_string(kMostBrokenStringBytes) +
                     " are allowed of such");
      }
      if (out) out->String(text);
      return;
    }
    case kBool: {
      const uint8_t value = cursor->Take<uint8_t>(what);
      if (value > 1) cursor->Fail(what + ": bool of value " + std::to_string(value) + "; expected 0 or 1");
      if (out) out->Bool(value == 1);
      return;
    }
    case kArray: {
      if (nesting >= kMostNesting)
        cursor->Fail(what + ": arrays nested deeper than " + std::to_string(kMostNesting));
      const uint32_t element = cursor->Take<uint32_t>(what);
      const uint64_t count = cursor->Take<uint64_t>(what);
      if (element > kFloat64) cursor->Fail(what + ": array of unknown value type " + std::to_string(element));
      cursor->TakeElements(count, kLeastBytes[element], what + ": elements of an array");
      if (out) out->BeginArray();
      for (uint64_t i = 0; i < count; ++i) WalkValue(cursor, element, nesting + 1, what, out);
      if (out) out->EndArray();
      return;
    }
    default:
      cursor->Fail(what + ": unknown value type " + std::to_string(type));
  }
}

class GgufHeader : public TensorHeader {
 public:
  struct Entry {
    std::string key;
    uint32_t type;
    uint64_t offset;  // of the value; values stay in the mapping until someone asks
  };

  explicit GgufHeader(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}

  void WriteVersion(JsonWriter* out) const override { out->Uint(version); }
  void WriteMetadata(JsonWriter* out) const override {
    out->BeginObject();
    for (const Entry& entry : entries) {
      out->Key(entry.key);
      Cursor cursor(*file_, entry.offset);
      WalkValue(&cursor, entry.type, 0, What(entry), out);
    }
    out->EndObject();
  }
  std::optional<std::string> MetadataString(std::string_view key) const override {
    for (const Entry& entry : entries) {
      if (entry.key == key && entry.type == kString) {
        return std::string(Cursor(*file_, entry.offset).String(What(entry)));
      }
    }
    return std::nullopt;
  }

  static std::string What(const Entry& entry) { return "metadata " + QuoteForMessage(entry.key); }

  uint32_t version = 0;
  std::vector<Entry> entries;

 private:
  std::shared_ptr<const MappedFile> file_;
};

void ReadEntries(Cursor* cursor, uint64_t count, GgufHeader* header) {
  cursor->Plausible(count, 13, kMostKeys, "metadata keys");
  for (uint64_t i = 0; i < count; ++i) {
    GgufHeader::Entry entry;
    entry.key = cursor->Name("metadata key");
    const std::string what = GgufHeader::What(entry);
    entry.type = cursor->Take<uint32_t>(what);
    entry.offset = cursor->at();
    WalkValue(cursor, entry.type, 0, what, nullptr);
    header->entries.push_back(std::move(entry));
  }
  std::vector<std::string_view> keys;
  for (const auto& entry : header->entries) keys.push_back(entry.key);
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) cursor->Fail("metadata key " + QuoteForMessage(*twice) + " occurs twice");
}

uint64_t ReadAlignment(const MappedFile& file, const GgufHeader& header) {
  for (const auto& entry : header.entries) {
    if (entry.key != "general.alignment") continue;
    Cursor cursor(file, entry.offset);
    if (entry.type != kUint32) {
      cursor.Fail(std::string("metadata \"general.alignment\": expected uint32, found ") +
                  kTypeNames[entry.type]);
    }
    const uint32_t alignment = cursor.Take<uint32_t>("general.alignment");
    if (!std::has_single_bit(alignment)) {
      cursor.Fail("metadata \"general.alignment\": expected a power of two, found " +
                  std::to_string(alignment));
    }
    return alignment;
  }
  return 32;
}

/// Offsets are left relative to the data section, which is not known yet.
TensorInfo ReadTensor(Cursor* cursor) {
  TensorInfo tensor;
  tensor.name = cursor->Name("tensor name");
  const std::string what = "tensor " + QuoteForMessage(tensor.name);
  const uint32_t dimensions = cursor->Take<uint32_t>(what);
  if (dimensions > kMostDimensions) {
    cursor->Fail(what + ": " + std::to_string(dimensions) + " dimensions; at most " +
                 std::to_string(kMostDimensions) + " are allowed");
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    const uint64_t size = cursor->Take<uint64_t>(what);
    if (size > INT64_MAX) cursor->Fail(what + ": dimension of " + std::to_string(size));
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());  // GGUF stores the innermost dimension first
  const uint32_t type = cursor->Take<uint32_t>(what);
  const std::optional<DType> dtype = DTypeFromGgml(type);
  if (!dtype) {
    cursor->Fail(what + ": GGML type " + std::to_string(type) + " (" + GgmlTypeName(type) +
                 ") is not supported; expected one of " + GgmlTypesText());
  }
  tensor.dtype = *dtype;
  if (tensor.RowLength() % DTypeBlockElements(tensor.dtype) != 0) {
    cursor->Fail(what + ": rows of " + std::to_string(tensor.RowLength()) + " elements; " +
                 DTypeName(tensor.dtype) + " needs a multiple of " +
                 std::to_string(DTypeBlockElements(tensor.dtype)));
  }
  if (!TensorBytes(tensor.dtype, tensor.shape, &tensor.bytes)) {
    cursor->Fail(what + ": shape " + ShapeText(tensor.shape) + " is larger than 64 bits can count");
  }
  tensor.offset = cursor->Take<uint64_t>(what);
  return tensor;
}

void CheckVersion(const Cursor& cursor, uint32_t version) {
  if (version == 2 || version == 3) return;
  if (version == 0x02000000 || version == 0x03000000)
    cursor.Fail("big-endian GGUF; only little-endian is read");
  cursor.Fail("GGUF version " + std::to_string(version) + "; expected 2 or 3");
}

}  // namespace

std::unique_ptr<TensorHeader> ReadGgufHeader(std::shared_ptr<const MappedFile> file) {
  Cursor cursor(*file, 0);
  const uint32_t magic = cursor.Take<uint32_t>("the GGUF magic");
  if (std::memcmp(&magic, "GGUF", 4) != 0) {
    cursor.Fail("expected a GGUF file, which begins with \"GGUF\", found " + DescribeStart(*file));
  }
  auto header = std::make_unique<GgufHeader>(file);
  header->version = cursor.Take<uint32_t>("the GGUF version");
  CheckVersion(cursor, header->version);
  const uint64_t tensors = cursor.Take<uint64_t>("the tensor count");
  const uint64_t keys = cursor.Take<uint64_t>("the metadata count");
  cursor.Plausible(tensors, 24, kMostTensors, "tensors");
  ReadEntries(&cursor, keys, header.get());
  const uint64_t alignment = ReadAlignment(*file, *header);
  cursor.Plausible(tensors, 24, kMostTensors, "tensors");
  header->tensors.reserve(tensors);
  for (uint64_t i = 0; i < tensors; ++i) header->tensors.push_back(ReadTensor(&cursor));

  // The header is at most 100 MB and the alignment at most 2^31: no overflow.
  const uint64_t start = (cursor.at() + alignment - 1) / alignment * alignment;
  for (TensorInfo& tensor : header->tensors) {
    if (__builtin_add_overflow(tensor.offset, start, &tensor.offset)) {
      cursor.Fail("tensor " + QuoteForMessage(tensor.name) + ": offset beyond any file");
    }
  }
  // A file without tensors (a vocabulary) may end before the padding.
  if (header->tensors.empty() && file->size() <= start) return header;
  SortAndCheckTiling(*file, start, alignment, &header->tensors);
  return header;
}

}  // namespace selfedit
