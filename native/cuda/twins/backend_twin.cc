// Twin of runtime/backend_cuda.cc: the host plays the device. Captured work is a list of closures over
// arguments copied at the capture, which is what a CUDA graph holds.
#include "cuda/twins/backend_twin.h"

#include <vector>

#include "cpu/gemm.h"
#include "cuda/runtime/backend.h"
#include "format/error.h"

namespace selfedit::cuda {
namespace {
std::vector<std::function<void(Stream)>>* capturing = nullptr;

void NotWhileCapturing(const char* what) {
  if (capturing != nullptr) throw Error("INTERNAL", std::string(what) + " while a graph is captured");
}

const at::Tensor& OnDevice(const at::Tensor& t) {
  if (!t.is_contiguous()) throw Error("INTERNAL", "a device operand is not contiguous");
  return t;
}
}  // namespace

struct DeviceScope::State {
  c10::Device device = at::kCPU;
};
DeviceScope::DeviceScope(at::Device) : state_(std::make_unique<State>()) {}
DeviceScope::~DeviceScope() = default;

int64_t FreeBytes(at::Device) { return twin_free_bytes; }

void Enqueue(std::function<void(Stream)> work) {
  if (capturing != nullptr) {
    capturing->push_back(std::move(work));
  } else {
    work(nullptr);
  }
}

// Float sums whose order depends on the shape of one row alone, as those of the other twins.
void Product(const at::Tensor& a, const at::Tensor& b, bool transpose, bool accumulate,
             const at::Tensor& out) {
  OnDevice(a), OnDevice(b), OnDevice(out);
  if (a.size(1) != b.size(transpose ? 1 : 0) || out.size(0) != a.size(0) ||
      out.size(1) != b.size(transpose ? 0 : 1)) {
    throw Error("INTERNAL", "shapes of a product do not fit");
  }
  Enqueue([=](Stream) {
    const at::Tensor x = a.to(at::kFloat), w = b.to(at::kFloat);
    at::Tensor y = at::empty(out.sizes(), at::kFloat);
    const int64_t n = x.size(0), k = x.size(1), m = y.size(1);
    cpu::Gemm<float>(false, transpose, n, m, k, 1.0f, x.const_data_ptr<float>(), k, w.const_data_ptr<float>(),
                     w.size(1), 0.0f, y.mutable_data_ptr<float>(), m);
    if (accumulate) y.add_(out);
    out.copy_(y);
  });
}

void Convert(const at::Tensor& from, const at::Tensor& to) {
  Enqueue([=](Stream) { to.copy_(from); });
}
void Fill(const at::Tensor& tensor, double value) {
  Enqueue([=](Stream) { tensor.fill_(value); });
}
void UploadInto(const at::Tensor& from, const at::Tensor& to) {
  NotWhileCapturing("an upload");
  to.copy_(from);
}
at::Tensor Upload(const at::Tensor& from, at::Device) {
  NotWhileCapturing("an upload");
  return from.clone(at::MemoryFormat::Contiguous);
}

struct Readback::State {
  at::Tensor host;
};
Readback::Readback() : state_(std::make_unique<State>()) {}
Readback::~Readback() = default;
void Readback::Start(const at::Tensor& from) {
  NotWhileCapturing("a copy to the host");
  state_->host = from.clone();
}
at::Tensor Readback::Wait() { return state_->host; }

struct Graph::State {
  std::vector<std::function<void(Stream)>> work;
};
Graph::Graph() : state_(std::make_unique<State>()) {}
Graph::~Graph() = default;
void Graph::Capture(const std::function<void()>& function) {
  NotWhileCapturing("a capture");
  state_->work.clear();
  capturing = &state_->work;
  try {
    function();
  } catch (...) {
    capturing = nullptr;
    throw;
  }
  capturing = nullptr;
}
void Graph::Replay() {
  NotWhileCapturing("a replay");
  for (const auto& work : state_->work) work(nullptr);
}

void Synchronise() { NotWhileCapturing("a wait"); }
void CheckDevice() {}

}  // namespace selfedit::cuda
