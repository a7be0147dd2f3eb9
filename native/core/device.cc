#include "core/device.h"

#include "format/error.h"

namespace selfedit {
namespace {

[[noreturn]] void Unavailable(const std::string& message) { throw Error("DEVICE_UNAVAILABLE", message); }

std::string Available() {
  std::string text;
  for (const std::string& name : DeviceNames()) text += (text.empty() ? "" : ", ") + name;
  return "available: " + text;
}

// The number of "cuda:N"; 0 for "cuda", -1 for anything else.
int CudaIndex(const std::string& name) {
  if (name == "cuda") return 0;
  if (name.rfind("cuda:", 0) != 0) return -1;
  const std::string digits = name.substr(5);
  // c10 counts devices in a byte.
  if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos ||
      (digits.size() > 1 && digits[0] == '0')) {
    return -1;
  }
  return std::stoi(digits);
}

}  // namespace

std::string WhyNoGpu() {
  try {
    cuda::Count();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<std::string> DeviceNames() {
  std::vector<std::string> names{"cpu"};
  const int count = WhyNoGpu().empty() ? cuda::Count() : 0;
  for (int i = 0; i < count; ++i) names.push_back("cuda:" + std::to_string(i));
  return names;
}

std::vector<DeviceInfo> ListDevices() {
  std::vector<DeviceInfo> devices(1);
  devices[0].name = "cpu";
  const int count = WhyNoGpu().empty() ? cuda::Count() : 0;
  for (int i = 0; i < count; ++i) {
    try {
      devices.push_back(cuda::Describe(i));
    } catch (const Error&) {
      // One GPU that is broken or not ours hides no other.
    }
  }
  return devices;
}

at::Device ParseDevice(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name == "auto") return WhyNoGpu().empty() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const int index = CudaIndex(name);
  if (index < 0) {
    Unavailable("there is no device \"" + name + "\"; expected cpu, cuda, cuda:N or auto; " + Available());
  }
  const std::string problem = WhyNoGpu();
  if (!problem.empty()) {
    Unavailable("device \"" + name + "\" is not available: " + problem + "; " + Available());
  }
  if (index >= cuda::Count()) Unavailable("device \"" + name + "\" does not exist; " + Available());
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

}  // namespace selfedit
