// Compiled where CMake found nccl.h (SelfeditRanks.cmake); empty elsewhere, and ranks talk over Gloo.
#ifdef SELFEDIT_NCCL
#include "cuda/runtime/nccl_group.h"

#include <chrono>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "core/process_group.h"

namespace selfedit::cuda {

c10::intrusive_ptr<c10d::Backend> MakeNccl(const c10::intrusive_ptr<c10d::Store>& store,
                                           const GroupSpec& spec, c10::Device device) {
  // c10d's watchdog would end the process when a collective is late; who waits for whom is ours to judge.
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(spec.timeout_ms);
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, static_cast<int>(spec.rank),
                                                           static_cast<int>(spec.world), std::move(options));
  group->setBoundDeviceId(device);
  return group;
}

}  // namespace selfedit::cuda
#endif
