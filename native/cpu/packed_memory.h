// Memory of packed weights.
#pragma once
#include <cstdint>
#include <memory>

namespace selfedit::cpu {

// Aligned to 64 bytes, contents undefined; freed with its last owner. Any thread.
std::shared_ptr<void> PackedMemory(int64_t bytes);

}  // namespace selfedit::cpu
