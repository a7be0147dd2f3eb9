// What weights and factors may be stored as.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>

#include "core/types.h"
#include "format/tensor_file.h"

namespace selfedit {

// A tensor where it lies in its file, which stays mapped as long as this is held.
struct StoredTensor {
  std::shared_ptr<const TensorFile> file;
  const TensorInfo* info = nullptr;
};

// `<path>: tensor "<name>"`, the name escaped and cut: a file may make it as long as it likes.
std::string Naming(const TensorFile& file, const TensorInfo& info);

// Integers belong to quantisation schemes whose scales lie elsewhere: read as numbers they would be a wrong
// model. Throws FILE_FORMAT.
void CheckReal(const TensorFile& file, const TensorInfo& info);

// A tensor of real values in another type: exact unless the file holds float64 and the type is narrower.
at::Tensor RealValues(const TensorFile& file, const TensorInfo& info, const at::TensorOptions& options);

// Throws TENSOR_UNEXPECTED, naming the tensors that have not been used.
void RefuseUnused(const TensorFile& file, const std::function<bool(const std::string& name)>& used);

// GGUF keeps the rotary pairs of a head's rows next to each other: [heads, half, 2, in] -> [heads, 2, half,
// in] and back. One row at least.
at::Tensor Unpermuted(const at::Tensor& rows, int64_t heads);
at::Tensor Permuted(const at::Tensor& rows, int64_t heads);

}  // namespace selfedit
