#include "scratch.h"

#include <cstdlib>
#include <new>

namespace selfedit::cpu {
namespace {

struct Block {
  void* memory = nullptr;
  size_t size = 0;
  ~Block() { std::free(memory); }
};
thread_local Block block;

}  // namespace

void* Scratch(size_t bytes) {
  if (bytes > block.size) {
    const size_t size = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    std::free(block.memory);
    block.size = 0;
    block.memory = std::aligned_alloc(64, size);
    if (!block.memory) throw std::bad_alloc();
    block.size = size;
  }
  return block.memory;
}

}  // namespace selfedit::cpu
