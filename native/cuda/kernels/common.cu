// The first launch error since the last question.
#include <atomic>

#include "common.cuh"

namespace selfedit::cuda {
namespace {
std::atomic<int> kept{0};
}

void KeepError(cudaError_t error) {
  int none = 0;
  if (error != cudaSuccess) kept.compare_exchange_strong(none, static_cast<int>(error));
}

const char* TakeError() {
  const int error = kept.exchange(0);
#if defined(SELFEDIT_EMULATE)
  return error == 0 ? nullptr : "launch failed";
#else
  return error == 0 ? nullptr : cudaGetErrorString(static_cast<cudaError_t>(error));
#endif
}

}  // namespace selfedit::cuda
