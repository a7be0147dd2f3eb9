// What weights and factors may be stored as.
#pragma once
#include <memory>

#include "core/types.h"
#include "format/tensor_file.h"

namespace selfedit {

// A tensor where it lies in its file, which stays mapped as long as this is held.
struct StoredTensor {
  std::shared_ptr<const TensorFile> file;
  const TensorInfo* info = nullptr;
};

// Integers belong to quantisation schemes whose scales lie elsewhere: read as numbers they would be a wrong
// model.
inline void CheckReal(const TensorFile& file, const TensorInfo& info) {
  switch (info.dtype) {
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      throw Error("FILE_FORMAT", file.path() + ": tensor \"" + info.name + "\" is of type " +
                                     std::string(DTypeName(info.dtype)) +
                                     "; expected floating-point values or a quantisation of GGUF");
    default:
      return;
  }
}

}  // namespace selfedit
