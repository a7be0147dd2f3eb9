// What tests can change about the host that plays a device.
#pragma once
#include <cstdint>

namespace selfedit::cuda {

// What FreeBytes says.
inline int64_t twin_free_bytes = int64_t{1} << 30;

}  // namespace selfedit::cuda
