#include "format/safetensors_writer.h"

#include <algorithm>
#include <cstring>

#include "format/atomic_file.h"
#include "format/dtype.h"
#include "format/error.h"
#include "format/json.h"
#include "format/tensor_header.h"

namespace selfedit {
namespace {

/// Place of a type in the library's order, largest alignment first: I64 F64 F32 I32 BF16 F16 I16 I8 U8 BOOL.
int Order(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 0;
    case DType::kF64:
      return 1;
    case DType::kF32:
      return 2;
    case DType::kI32:
      return 3;
    case DType::kBF16:
      return 4;
    case DType::kF16:
      return 5;
    case DType::kI16:
      return 6;
    case DType::kI8:
      return 7;
    case DType::kU8:
      return 8;
    default:
      return 9;
  }
}

[[noreturn]] void Fail(const std::string& path, const std::string& what) {
  throw Error("INTERNAL", path + ": cannot write as safetensors: " + what);
}

struct Laid {
  const TensorToWrite* tensor;
  uint64_t bytes;
};

std::vector<Laid> LayOut(const std::string& path, const std::vector<TensorToWrite>& tensors) {
  std::vector<Laid> laid;
  for (const TensorToWrite& tensor : tensors) {
    const std::string what = "tensor " + QuoteForMessage(tensor.name);
    uint64_t bytes = 0;
    if (tensor.name == "__metadata__" || !IsValidUtf8(tensor.name))
      Fail(path, what + " is not a usable name");
    if (DTypeBlockElements(tensor.dtype) != 1) Fail(path, what + " has type " + DTypeName(tensor.dtype));
    if (tensor.shape.size() > kMostDimensions || !TensorBytes(tensor.dtype, tensor.shape, &bytes)) {
      Fail(path, what + " has shape " + ShapeText(tensor.shape));
    }
    if (bytes > 0 && !tensor.data && !tensor.produce) Fail(path, what + " has no data");
    laid.push_back({&tensor, bytes});
  }
  std::sort(laid.begin(), laid.end(), [](const Laid& a, const Laid& b) {
    const int left = Order(a.tensor->dtype), right = Order(b.tensor->dtype);
    return left != right ? left < right : a.tensor->name < b.tensor->name;
  });
  return laid;
}

template <typename Names>
void RefuseDuplicates(const std::string& path, Names names, const char* what) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) Fail(path, std::string(what) + " " + QuoteForMessage(*twice) + " occurs twice");
}

std::string HeaderText(const std::vector<Laid>& laid,
                       const std::vector<std::pair<std::string, std::string>>& metadata) {
  JsonWriter out;
  out.BeginObject();
  if (!metadata.empty()) {
    out.Key("__metadata__");
    out.BeginObject();
    for (const auto& [key, value] : metadata) {
      out.Key(key);
      out.String(value);
    }
    out.EndObject();
  }
  uint64_t offset = 0;
  for (const auto& [tensor, bytes] : laid) {
    out.Key(tensor->name);
    out.BeginObject();
    out.Key("dtype");
    out.String(DTypeName(tensor->dtype));
    out.Key("shape");
    out.BeginArray();
    for (const int64_t dimension : tensor->shape) out.Int(dimension);
    out.EndArray();
    out.Key("data_offsets");
    out.BeginArray();
    out.Uint(offset);
    out.Uint(offset += bytes);
    out.EndArray();
    out.EndObject();
  }
  out.EndObject();
  std::string text = out.Take();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors then start at a multiple of 8
  return text;
}

}  // namespace

void WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::vector<std::string_view> names, keys;
  for (const TensorToWrite& tensor : tensors) names.push_back(tensor.name);
  for (const auto& entry : metadata) keys.push_back(entry.first);
  RefuseDuplicates(path, names, "tensor");
  RefuseDuplicates(path, keys, "metadata key");
  const std::vector<Laid> laid = LayOut(path, tensors);
  const std::string header = HeaderText(laid, metadata);
  if (header.size() > kMostHeaderBytes)
    Fail(path, "the header has " + std::to_string(header.size()) + " bytes");

  AtomicFile file(path);
  const uint64_t length = header.size();
  file.Write(&length, sizeof length);
  file.Write(header.data(), header.size());
  for (const auto& [tensor, bytes] : laid) WriteTensor(*tensor, bytes, &file);
  file.Commit();
}

void AtomicWriteFile(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.Write(bytes.data(), bytes.size());
  file.Commit();
}

}  // namespace selfedit
