// Per-thread working memory of the kernels: grown when needed, reused by every later call on the same thread.
#pragma once
#include <cstddef>

namespace selfedit::cpu {

// At least `bytes` of 64-byte aligned memory, valid until the thread's next call. Contents are undefined.
void* Scratch(size_t bytes);

}  // namespace selfedit::cpu
