// Memory of the tensors that the compute thread makes: blocks are kept and used again, so that a step after
// the first asks the system for nothing and touches no fresh page.
#pragma once
#include <cstdint>

namespace selfedit::workspace {

// While one lives, tensors made by this thread come from the workspace, and blocks let go by any thread are
// kept. Tensors may outlive it. When the last one ends, what is kept goes back to the system.
class Scope {
 public:
  Scope();
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
};

struct Stats {
  int64_t system_allocations = 0;  // since the process began
  int64_t used_bytes = 0;          // in blocks that tensors hold
  int64_t kept_bytes = 0;          // in blocks that wait for the next tensor
  int64_t used_blocks = 0;         // that tensors hold
  int64_t allocations = 0;         // of tensors, since the process began
};
Stats Read();

// Everything kept goes back to the system.
void Trim();

// Most bytes that blocks in use may have together; 0: no limit. Beyond it an allocation throws OUT_OF_MEMORY.
void SetLimit(int64_t bytes);
int64_t Limit();

// For tests: of all allocations of tensors from now on, whichever thread's, the first `after` succeed and the
// next `count` fail, with std::bad_alloc or with libtorch's own error. `count` 0: none.
enum class Failing { kBadAlloc, kLibtorch };
void FailAllocations(int64_t after, int64_t count, Failing how);

}  // namespace selfedit::workspace
