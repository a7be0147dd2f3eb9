// The GPUs that CUDA sees. Its twin for a build without CUDA is native/nocuda/device.cc.
#include "core/device.h"

#include <cuda_runtime_api.h>
#include <torch/headeronly/version.h>

#include "format/error.h"

namespace selfedit::cuda {
namespace {

[[noreturn]] void Unavailable(const std::string& message) {
  throw Error("DEVICE_UNAVAILABLE", "libtorch " TORCH_VERSION " has CUDA, but " + message);
}

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that stays would be reported again by the next call
  Unavailable(std::string(what) + " failed: " + cudaGetErrorString(status));
}

// Asking for a GPU's memory makes its context current, which a caller on another GPU must not notice.
class KeepCurrent {
 public:
  KeepCurrent() { Check(cudaGetDevice(&before_), "cudaGetDevice"); }
  ~KeepCurrent() { cudaSetDevice(before_); }
  KeepCurrent(const KeepCurrent&) = delete;
  KeepCurrent& operator=(const KeepCurrent&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

bool Built() { return true; }

int Count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    if (driver == 0)
      Unavailable("there is no NVIDIA driver; install one (nvidia-smi shows whether it works)");
    Unavailable("the NVIDIA driver supports CUDA " + version(driver) + " at most, and CUDA " +
                version(runtime) + " is needed; install a newer driver");
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    cudaGetLastError();
    Unavailable("the NVIDIA driver shows no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES)");
  }
  Check(status, "cudaGetDeviceCount");
  return count;
}

DeviceInfo Describe(int index) {
  const KeepCurrent keep;
  cudaDeviceProp properties{};
  Check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  size_t free = 0, total = 0;
  Check(cudaSetDevice(index), "cudaSetDevice");
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  DeviceInfo info;
  info.name = "cuda:" + std::to_string(index);
  info.product = properties.name;
  info.index = index;
  info.total_bytes = static_cast<int64_t>(total);
  info.free_bytes = static_cast<int64_t>(free);
  info.major = properties.major;
  info.minor = properties.minor;
  return info;
}

}  // namespace selfedit::cuda
