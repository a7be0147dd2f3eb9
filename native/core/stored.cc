#include "core/stored.h"

#include <algorithm>

#include "format/json.h"

namespace selfedit {

std::string Naming(const TensorFile& file, const TensorInfo& info) {
  return file.path() + ": tensor " + QuoteForMessage(info.name);
}

void CheckReal(const TensorFile& file, const TensorInfo& info) {
  switch (info.dtype) {
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      throw Error("FILE_FORMAT", Naming(file, info) + " is of type " + DTypeName(info.dtype) +
                                     "; expected floating-point values or a quantisation of GGUF");
    default:
      return;
  }
}

at::Tensor RealValues(const TensorFile& file, const TensorInfo& info, const at::TensorOptions& options) {
  CheckReal(file, info);
  const bool wide = info.dtype == DType::kF64;
  at::Tensor values = at::empty(info.shape, wide ? at::kDouble : at::kFloat);
  if (wide) {
    std::copy_n(file.Data(info), info.bytes, static_cast<uint8_t*>(values.mutable_data_ptr()));
  } else {
    Dequantize(info, file.Data(info), 0, info.Rows(), values.mutable_data_ptr<float>());
  }
  return values.to(options);
}

void RefuseUnused(const TensorFile& file, const std::function<bool(const std::string&)>& used) {
  constexpr int64_t kMost = 12;
  std::string extra;
  int64_t count = 0;
  for (const TensorInfo& info : file.tensors()) {
    if (used(info.name) || ++count > kMost) continue;
    extra += (extra.empty() ? "" : ", ") + QuoteForMessage(info.name);
  }
  if (count == 0) return;
  throw Error("TENSOR_UNEXPECTED", file.path() + ": " + std::to_string(count) +
                                       " unexpected tensor(s): " + extra + (count > kMost ? ", …" : ""));
}

at::Tensor Unpermuted(const at::Tensor& rows, int64_t heads) {
  const int64_t half = rows.size(0) / heads / 2;
  return rows.view({heads, half, 2, -1}).transpose(1, 2).reshape(rows.sizes()).contiguous();
}

at::Tensor Permuted(const at::Tensor& rows, int64_t heads) {
  const int64_t half = rows.size(0) / heads / 2;
  return rows.view({heads, 2, half, -1}).transpose(1, 2).reshape(rows.sizes()).contiguous();
}

}  // namespace selfedit
