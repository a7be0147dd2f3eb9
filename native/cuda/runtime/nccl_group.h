// Ranks whose collectives go over NCCL, a GPU each.
#pragma once
#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace selfedit {
struct GroupSpec;
}

namespace selfedit::cuda {

// All ranks are about to make the same call, each with a GPU of its own. NCCL connects at the first
// collective.
c10::intrusive_ptr<c10d::Backend> MakeNccl(const c10::intrusive_ptr<c10d::Store>& store,
                                           const GroupSpec& spec, c10::Device device);

}  // namespace selfedit::cuda
