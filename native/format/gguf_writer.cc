#include "format/gguf_writer.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "format/atomic_file.h"
#include "format/dtype.h"
#include "format/error.h"
#include "format/json.h"
#include "format/tensor_header.h"

namespace selfedit {
namespace {

constexpr uint64_t kAlignment = 32;    // what readers take where the file does not say
constexpr size_t kMostNameBytes = 63;  // GGML_MAX_NAME less the closing zero
constexpr size_t kMostGgmlDimensions = 4;

uint64_t Aligned(uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

[[noreturn]] void Fail(const std::string& path, const std::string& what) {
  throw Error("INTERNAL", path + ": cannot write as GGUF: " + what);
}

/// Bytes of the header.
class Buffer {
 public:
  template <typename T>
  void Put(T value) {
    Put(&value, sizeof value);
  }
  void Put(const std::string& text) {
    Put(static_cast<uint64_t>(text.size()));
    Put(text.data(), text.size());
  }
  /// A value with its type; numbers are those of the format.
  void Put(const GgufValue& value) {
    if (const auto* text = std::get_if<std::string>(&value)) {
      Put(uint32_t{8});
      Put(*text);
    } else if (const auto* whole = std::get_if<uint32_t>(&value)) {
      Put(uint32_t{4});
      Put(*whole);
    } else if (const auto* real = std::get_if<float>(&value)) {
      Put(uint32_t{6});
      Put(*real);
    } else {
      Put(uint32_t{7});
      Put(static_cast<uint8_t>(std::get<bool>(value)));
    }
  }
  void PadTo(uint64_t size) { bytes_.resize(size, 0); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  void Put(const void* data, size_t count) {
    const auto* from = static_cast<const uint8_t*>(data);
    bytes_.insert(bytes_.end(), from, from + count);
  }
  std::vector<uint8_t> bytes_;
};

/// Bytes of a tensor's data, once everything about it is known to be readable.
uint64_t CheckedBytes(const std::string& path, const TensorToWrite& tensor) {
  const std::string what = "tensor " + QuoteForMessage(tensor.name);
  uint64_t bytes = 0;
  if (tensor.name.empty() || tensor.name.size() > kMostNameBytes || !IsValidUtf8(tensor.name)) {
    Fail(path, what + " is not a name of 1 to " + std::to_string(kMostNameBytes) + " bytes of UTF-8");
  }
  if (Traits(tensor.dtype).ggml_type == kNoGgmlType) {
    Fail(path, what + " has type " + DTypeName(tensor.dtype));
  }
  if (tensor.shape.size() > kMostGgmlDimensions || !TensorBytes(tensor.dtype, tensor.shape, &bytes)) {
    Fail(path, what + " has shape " + ShapeText(tensor.shape));
  }
  if (bytes > 0 && !tensor.data && !tensor.produce) Fail(path, what + " has no data");
  return bytes;
}

void PutInfo(const TensorToWrite& tensor, uint64_t offset, Buffer* out) {
  out->Put(tensor.name);
  out->Put(static_cast<uint32_t>(tensor.shape.size()));
  for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
    out->Put(static_cast<uint64_t>(*size));  // innermost first
  }
  out->Put(Traits(tensor.dtype).ggml_type);
  out->Put(offset);
}

}  // namespace

void WriteGguf(const std::string& path, const std::vector<std::pair<std::string, GgufValue>>& metadata,
               const std::vector<TensorToWrite>& tensors) {
  Buffer header;
  header.Put(uint32_t{0x46554747});  // "GGUF"
  header.Put(uint32_t{3});
  header.Put(static_cast<uint64_t>(tensors.size()));
  header.Put(static_cast<uint64_t>(metadata.size()));
  std::set<std::string_view> keys, names;
  for (const auto& [key, value] : metadata) {
    if (key.empty() || !IsValidUtf8(key) || !keys.insert(key).second || key == "general.alignment") {
      Fail(path, "metadata key " + QuoteForMessage(key) + " is not usable, or occurs twice");
    }
    header.Put(key);
    header.Put(value);
  }
  std::vector<uint64_t> sizes;
  uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    sizes.push_back(CheckedBytes(path, tensor));
    if (!names.insert(tensor.name).second) {
      Fail(path, "tensor " + QuoteForMessage(tensor.name) + " occurs twice");
    }
    PutInfo(tensor, offset, &header);
    offset = Aligned(offset + sizes.back());
  }
  header.PadTo(Aligned(header.bytes().size()));
  if (header.bytes().size() > kMostHeaderBytes) {
    Fail(path, "the header has " + std::to_string(header.bytes().size()) + " bytes");
  }

  AtomicFile file(path);
  file.Write(header.bytes().data(), header.bytes().size());
  constexpr uint8_t kZeros[kAlignment] = {};
  for (size_t i = 0; i < tensors.size(); ++i) {
    WriteTensor(tensors[i], sizes[i], &file);
    file.Write(kZeros, Aligned(sizes[i]) - sizes[i]);
  }
  file.Commit();
}

}  // namespace selfedit
