// Devices that tensors can live on: the CPU, and the GPUs of a CUDA libtorch.
#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

namespace selfedit {

struct DeviceInfo {
  std::string name;                         // "cpu", "cuda:0": what ParseDevice takes
  std::string product;                      // the maker's name of a GPU; empty for the CPU
  int index = -1;                           // number of a GPU
  int64_t total_bytes = 0, free_bytes = 0;  // of a GPU's memory; 0 for the CPU, whose memory is the system's
  int major = 0, minor = 0;                 // compute capability of a GPU
};

// The CPU first, then every GPU that can be used. Never throws for a GPU that is not there.
std::vector<DeviceInfo> ListDevices();
// Their names alone, which starts nothing on a GPU.
std::vector<std::string> DeviceNames();
// Why there is no GPU, in words; empty when there is one.
std::string WhyNoGpu();

// "cpu", "cuda" (the first GPU), "cuda:N", or "auto": the first GPU, or else the CPU. Throws
// DEVICE_UNAVAILABLE, which says what there is and, for CUDA, what is missing.
at::Device ParseDevice(const std::string& name);

// Two implementations, chosen by CMake: native/cuda/runtime, and native/nocuda for a build without CUDA.
namespace cuda {

// Whether this build has CUDA code at all.
bool Built();
// Number of GPUs, at least 1. Throws DEVICE_UNAVAILABLE: why there is none, and what to do.
int Count();
// Facts of one GPU. Asking for free memory starts CUDA on that GPU. Throws DEVICE_UNAVAILABLE.
DeviceInfo Describe(int index);

}  // namespace cuda
}  // namespace selfedit
