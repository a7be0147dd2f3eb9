// A tensor on its way into a file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "format/tensor_file.h"

namespace selfedit {

/// Takes the next bytes of a tensor.
using ByteSink = std::function<void(const void* data, size_t bytes)>;

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  /// Row-major, outermost first, for every format.
  std::vector<int64_t> shape;
  /// Contiguous, row-major; must stay valid during the call.
  const void* data = nullptr;
  /// In the place of `data`: gives the bytes in order, piece by piece, when their turn has come. What it
  /// throws ends the writing, and no file is left.
  std::function<void(const ByteSink&)> produce = nullptr;
};

}  // namespace selfedit
