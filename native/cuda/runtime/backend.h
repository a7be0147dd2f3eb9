// All that the runtime asks of a device, apart from tensors and from the kernels. Two implementations with
// the same symbols: backend_cuda.cc, and twins/backend_twin.cc, which computes on the host and freezes the
// arguments of captured work exactly as a CUDA graph does, so that the whole engine is tested where no GPU
// is.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <memory>

#include "cuda/kernels/kernels.h"

namespace selfedit::cuda {

// Makes a device current for this thread, and one stream of it (always the same): all work of a call is
// ordered.
class DeviceScope {
 public:
  explicit DeviceScope(at::Device device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Bytes that can still be allocated on the current device, what the allocator keeps for reuse included.
int64_t FreeBytes(at::Device device);
// What a plan may use of it: a tenth is left to the allocator's rounding and to the workspaces of products.
inline int64_t Usable(int64_t free) { return free / 10 * 9; }

// Puts work on the current stream, or into the graph that is being captured. The function must own its
// arguments.
void Enqueue(std::function<void(Stream)> work);
template <typename Kernel, typename... Arguments>
void Launch(Kernel* kernel, Arguments... arguments) {
  Enqueue([kernel, arguments...](Stream stream) { kernel(arguments..., stream); });
}

// out = a b^T (transpose: b [m, k]) or a b (b [k, m]); a [n, k], out [n, m], all contiguous and of one type,
// but that out may be float where a and b are not. accumulate: += instead.
void Product(const at::Tensor& a, const at::Tensor& b, bool transpose, bool accumulate,
             const at::Tensor& out);
// to = from, types may differ; both on the device.
void Convert(const at::Tensor& from, const at::Tensor& to);
void Fill(const at::Tensor& tensor, double value);
// to = from, from on the host; does not wait, and `from` may change afterwards. Never part of a graph.
void UploadInto(const at::Tensor& from, const at::Tensor& to);
at::Tensor Upload(const at::Tensor& from, at::Device device);

// Copies from the device that the host looks at later.
class Readback {
 public:
  Readback();
  ~Readback();
  // After the work queued so far. One copy at a time.
  void Start(const at::Tensor& from);
  // Waits for it, and for nothing queued after it.
  at::Tensor Wait();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Work that is captured once and replayed with the arguments it had then.
class Graph {
 public:
  Graph();
  ~Graph();
  // Captures what the function enqueues; runs nothing. The function must not allocate or wait.
  void Capture(const std::function<void()>& function);
  void Replay();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Waits for all work of the current stream.
void Synchronise();
// Throws DEVICE_LOST when the device reports an error that stays, or when a launch went wrong.
void CheckDevice();

}  // namespace selfedit::cuda
