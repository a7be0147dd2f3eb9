#include "packed_memory.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace selfedit::cpu {
namespace {

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Matrices lie end to end in blocks of large pages: decoding reads them all for every token, and small pages
// cost it a quarter of the bandwidth. A block lives as long as one of its matrices.
constexpr int64_t kHugePage = int64_t{1} << 21;
constexpr int64_t kBlockBytes = 16 * kHugePage;
constexpr int64_t kLine = 64;

struct Block {
  explicit Block(int64_t bytes)
      : size(Parts(bytes, kHugePage) * kHugePage),
        memory(static_cast<char*>(std::aligned_alloc(kHugePage, size))) {
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    madvise(memory, size, MADV_HUGEPAGE);
#endif
  }
  ~Block() { std::free(memory); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const int64_t size;
  char* const memory;
  int64_t used = 0;
};

}  // namespace

std::shared_ptr<void> PackedMemory(int64_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Block> current;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Block> block = current.lock();
  if (!block || block->size - block->used < bytes) {
    block = std::make_shared<Block>(std::max(bytes, kBlockBytes));
    current = block;
  }
  void* memory = block->memory + block->used;
  block->used += Parts(bytes, kLine) * kLine;
  return {std::move(block), memory};
}

}  // namespace selfedit::cpu
