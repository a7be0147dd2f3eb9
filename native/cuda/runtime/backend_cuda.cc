// The runtime on libtorch's CUDA. Its twin is twins/backend_twin.cc.
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/runtime/backend.h"
#include "format/error.h"

namespace selfedit::cuda {
namespace {

[[noreturn]] void Lost(const std::string& what) {
  throw Error("DEVICE_LOST",
              "the GPU reports: " + what + "; what was on it is lost, start the process again");
}

void Check(cudaError_t status) {
  if (status != cudaSuccess) Lost(cudaGetErrorString(status));
}

// One stream a device for the life of the process: memory that one call frees is ordered before the next
// call's use.
c10::cuda::CUDAStream StreamOf(at::Device device) {
  static std::mutex mutex;
  static std::map<int, c10::cuda::CUDAStream> streams;
  const std::lock_guard lock(mutex);
  const auto found = streams.find(device.index());
  if (found != streams.end()) return found->second;
  const auto stream = c10::cuda::getStreamFromPool(true, device.index());
  streams.emplace(device.index(), stream);
  return stream;
}

c10::cuda::CUDAStream Current() { return c10::cuda::getCurrentCUDAStream(); }

at::Tensor Pinned(const at::Tensor& like) {
  return at::empty(like.sizes(), at::TensorOptions().dtype(like.scalar_type()).pinned_memory(true));
}

}  // namespace

struct DeviceScope::State {
  explicit State(at::Device device) : guard(StreamOf(device)) {}
  c10::cuda::CUDAStreamGuard guard;
};
DeviceScope::DeviceScope(at::Device device) : state_(std::make_unique<State>(device)) {}
DeviceScope::~DeviceScope() = default;

int64_t FreeBytes(at::Device device) {
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total));
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return static_cast<int64_t>(free) + stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;
}

void Enqueue(std::function<void(Stream)> work) { work(Current().stream()); }

void Product(const at::Tensor& a, const at::Tensor& b, bool transpose, bool accumulate,
             const at::Tensor& out) {
  const at::Tensor right = transpose ? b.t() : b;
  at::Tensor to = out;
  if (accumulate) {
    to.addmm_(a, right);
  } else if (out.scalar_type() == a.scalar_type()) {
    at::mm_out(to, a, right);
  } else {
    at::mm_out(to, a, right, out.scalar_type());
  }
}

void Convert(const at::Tensor& from, const at::Tensor& to) { to.copy_(from, true); }
void Fill(const at::Tensor& tensor, double value) { tensor.fill_(value); }

void UploadInto(const at::Tensor& from, const at::Tensor& to) {
  if (!from.is_cpu()) {
    to.copy_(from, true);
    return;
  }
  // The caching host allocator keeps the staging memory until the copy is done.
  const at::Tensor staging =
      at::empty(from.sizes(), at::TensorOptions().dtype(to.scalar_type()).pinned_memory(true));
  staging.copy_(from);
  to.copy_(staging, true);
}

at::Tensor Upload(const at::Tensor& from, at::Device device) {
  at::Tensor to = at::empty(from.sizes(), from.options().device(device));
  UploadInto(from, to);
  return to;
}

struct Readback::State {
  at::Tensor host;
  at::cuda::CUDAEvent event{cudaEventDisableTiming | cudaEventBlockingSync};
};
Readback::Readback() : state_(std::make_unique<State>()) {}
Readback::~Readback() = default;
void Readback::Start(const at::Tensor& from) {
  state_->host = Pinned(from);
  state_->host.copy_(from, true);
  state_->event.record(Current());
}
at::Tensor Readback::Wait() {
  Check(cudaEventSynchronize(state_->event.event()));
  return state_->host;
}

struct Graph::State {
  at::cuda::CUDAGraph graph;
  // A call that is aborted may leave replays behind: they end before their graph and its memory do.
  ~State() { cudaStreamSynchronize(Current().stream()); }
};
Graph::Graph() : state_(std::make_unique<State>()) {}
Graph::~Graph() = default;
void Graph::Capture(const std::function<void()>& function) {
  // Only this thread's calls are forbidden meanwhile: the process has other threads.
  state_->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    function();
  } catch (...) {
    state_->graph.capture_end();
    throw;
  }
  state_->graph.capture_end();
  CheckDevice();
}
void Graph::Replay() { state_->graph.replay(); }

void Synchronise() { Check(cudaStreamSynchronize(Current().stream())); }

void CheckDevice() {
  const char* launch = TakeError();
  if (launch != nullptr) Lost(launch);
  Check(cudaPeekAtLastError());
}

}  // namespace selfedit::cuda
