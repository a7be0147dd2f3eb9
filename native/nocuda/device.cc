// Twin of native/cuda/runtime/device.cc for a build without CUDA: there is no GPU, and the error says why.
#include "core/device.h"

#include <torch/headeronly/version.h>

#include "format/error.h"

namespace selfedit::cuda {

bool Built() { return false; }

int Count() {
#if defined(SELFEDIT_TORCH_HAS_CUDA)
  throw Error(
      "DEVICE_UNAVAILABLE",
      "libtorch " TORCH_VERSION
      " is a CUDA build, but selfedit was built without CUDA code; build it again where nvcc of the same "
      "CUDA version is in PATH");
#else
  throw Error("DEVICE_UNAVAILABLE",
              "selfedit was built with libtorch " TORCH_VERSION
              " without CUDA; build it with SELFEDIT_LIBTORCH_VARIANT=cu130 where nvcc is in PATH, or with "
              "LIBTORCH naming a CUDA build");
#endif
}

DeviceInfo Describe(int) {
  Count();
  return {};
}

}  // namespace selfedit::cuda
