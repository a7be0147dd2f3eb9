#include "core/workspace.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>

#include "format/error.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define SELFEDIT_HAS_MMAP 1
#endif

namespace selfedit::workspace {
namespace {

// In front of the values, so that a block says itself where it belongs whoever lets it go.
struct alignas(64) Block {
  Block* next = nullptr;  // in the list of free or of used ones
  size_t bytes = 0;       // with this header
  int size_class = 0;
  bool mapped = false;
};
static_assert(sizeof(Block) == 64);

// Four sizes an octave: at most a quarter of a block is unused. From kMappedBytes up blocks are mappings of
// their own, whose unused end is never touched and which go back to the system whole.
constexpr int kClasses = 4 * 64;
constexpr size_t kMappedBytes = size_t{1} << 18;
constexpr size_t kHugePage = size_t{1} << 21;
// A request takes a free block of up to 7/4 of its size before it asks the system: steps of varying length
// share.
constexpr int kLargerClasses = 3;
constexpr size_t kBuckets = 4096;

struct SizeClass {
  int index;
  size_t bytes;
};

// The smallest (4 + quarter) 2^shift that holds `bytes`.
SizeClass ClassOf(size_t bytes) {
  if (bytes < 256) bytes = 256;
  const int shift = std::bit_width(bytes - 1) - 3;
  const size_t quarters = (bytes - 1) >> shift;  // 4 to 7
  return {4 * shift + static_cast<int>(quarters) - 4, (quarters + 1) << shift};
}

#if defined(SELFEDIT_HAS_MMAP)
// `size` bytes of fresh memory; huge pages for as much of the first `wanted` as fills them, so that none is
// wasted.
void* Map(size_t size, size_t wanted) {
  const size_t more = wanted >= kHugePage ? kHugePage : 0;  // to align by
  void* memory = mmap(nullptr, size + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  if (more == 0) return memory;
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(memory) % kHugePage) % kHugePage;
  char* aligned = static_cast<char*>(memory) + before;
  if (before > 0) munmap(memory, before);
  if (before < more) munmap(aligned + size, more - before);
#if defined(MADV_HUGEPAGE)
  madvise(aligned, wanted / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return aligned;
}
#endif

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override;
  // oneDNN's own buffers come and go as bare pointers, and may be older than this allocator.
  c10::DeleterFnPtr raw_deleter() const override { return &FreeAny; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  void Enter() {
    const std::lock_guard lock(mutex_);
    ++scopes_;
  }
  void Leave() {
    const std::lock_guard lock(mutex_);
    if (--scopes_ == 0) ReleaseAll();
  }
  void Trim() {
    const std::lock_guard lock(mutex_);
    ReleaseAll();
  }
  void SetLimit(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
  }
  int64_t Limit() {
    const std::lock_guard lock(mutex_);
    return limit_;
  }
  Stats Read() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void FailAllocations(int64_t after, int64_t count, Failing how) {
    const std::lock_guard lock(mutex_);
    succeed_ = after;
    fail_ = count;
    failing_ = how;
    injects_ = count > 0;
  }

 private:
  void Inject();
  static void Free(void* values) { Get().Return(values); }
  static void FreeAny(void* values) {
    if (values != nullptr && !Get().Return(values)) Get().fallback_->raw_deleter()(values);
  }
  bool Return(void* values);  // false: not from here
  Block** Bucket(const void* values) {
    return &used_[(reinterpret_cast<uintptr_t>(values) / sizeof(Block)) * 0x9E3779B97F4A7C15u >> 52];
  }
  Block* Find(const SizeClass& size, size_t bytes);
  Block* FromSystem(const SizeClass& size, size_t bytes);
  void ToSystem(Block* block);
  void ReleaseAll();

 public:
  static Allocator& Get() {
    static Allocator* const allocator = new Allocator();  // never destroyed: tensors may outlive everything
    return *allocator;
  }

 private:
  Allocator() : fallback_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this); }

  c10::Allocator* const fallback_;
  std::mutex mutex_;
  Block* free_[kClasses] = {};
  Block* used_[kBuckets] = {};  // by address
  int scopes_ = 0;
  int64_t limit_ = 0;
  Stats stats_;
  // Failures for tests. The flag is read without the lock: nothing else is paid for them.
  std::atomic<bool> injects_{false};
  int64_t succeed_ = 0, fail_ = 0;
  Failing failing_ = Failing::kBadAlloc;
};

thread_local int depth = 0;  // scopes of this thread

void Allocator::Inject() {
  Failing how;
  {
    const std::lock_guard lock(mutex_);
    if (succeed_ > 0) {
      --succeed_;
      return;
    }
    if (fail_ == 0) return;
    --fail_;
    how = failing_;
  }
  if (how == Failing::kBadAlloc) throw std::bad_alloc();
  fallback_->allocate(size_t{1} << 62);  // no machine has it: libtorch's own error
}

c10::DataPtr Allocator::allocate(size_t bytes) {
  if (injects_ && bytes > 0) Inject();
  if (depth == 0 || bytes == 0 || bytes > SIZE_MAX / 4) return fallback_->allocate(bytes);
  const SizeClass size = ClassOf(bytes + sizeof(Block));
  Block* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (limit_ > 0) {
      const int64_t after = stats_.used_bytes + static_cast<int64_t>(size.bytes);
      if (after > limit_) {
        throw Error("OUT_OF_MEMORY", "a tensor of " + std::to_string(bytes) +
                                         " bytes does not fit: " + std::to_string(stats_.used_bytes) +
                                         " bytes of the limit of " + std::to_string(limit_) + " are in use");
      }
      if (after + stats_.kept_bytes > limit_) ReleaseAll();
    }
    block = Find(size, bytes + sizeof(Block));
    if (block == nullptr) {
      // What is kept may be what is missing.
      ReleaseAll();
      block = Find(size, bytes + sizeof(Block));
    }
    if (block != nullptr) {
      stats_.used_bytes += static_cast<int64_t>(block->bytes);
      ++stats_.used_blocks;
      ++stats_.allocations;
      Block** bucket = Bucket(block + 1);
      block->next = *bucket;
      *bucket = block;
    }
  }
  if (block == nullptr) return fallback_->allocate(bytes);  // throws, naming the size
  void* values = block + 1;
  return {values, values, &Free, c10::Device(c10::DeviceType::CPU)};
}

Block* Allocator::Find(const SizeClass& size, size_t bytes) {
  for (int c = size.index; c <= size.index + kLargerClasses && c < kClasses; ++c) {
    Block* block = free_[c];
    if (block == nullptr) continue;
    free_[c] = block->next;
    stats_.kept_bytes -= static_cast<int64_t>(block->bytes);
    return block;
  }
  return FromSystem(size, bytes);
}

Block* Allocator::FromSystem(const SizeClass& size, size_t bytes) {
  void* memory = nullptr;
  bool mapped = false;
#if defined(SELFEDIT_HAS_MMAP)
  if (size.bytes >= kMappedBytes) {
    memory = Map(size.bytes, bytes);
    if (memory == nullptr) return nullptr;
    mapped = true;
  }
#endif
  if (!mapped) memory = ::operator new(size.bytes, std::align_val_t(64), std::nothrow);
  if (memory == nullptr) return nullptr;
  ++stats_.system_allocations;
  return new (memory) Block{nullptr, size.bytes, size.index, mapped};
}

bool Allocator::Return(void* values) {
  const std::lock_guard lock(mutex_);
  Block** at = Bucket(values);
  while (*at != nullptr && *at + 1 != values) at = &(*at)->next;
  Block* block = *at;
  if (block == nullptr) return false;
  *at = block->next;
  stats_.used_bytes -= static_cast<int64_t>(block->bytes);
  --stats_.used_blocks;
  if (scopes_ == 0) {
    ToSystem(block);
    return true;
  }
  stats_.kept_bytes += static_cast<int64_t>(block->bytes);
  block->next = free_[block->size_class];
  free_[block->size_class] = block;
  return true;
}

void Allocator::ToSystem(Block* block) {
#if defined(SELFEDIT_HAS_MMAP)
  if (block->mapped) {
    munmap(block, block->bytes);
    return;
  }
#endif
  ::operator delete(block, std::align_val_t(64));
}

void Allocator::ReleaseAll() {
  for (Block*& head : free_) {
    while (head != nullptr) {
      Block* block = head;
      head = block->next;
      ToSystem(block);
    }
  }
  stats_.kept_bytes = 0;
}

}  // namespace

Scope::Scope() {
  Allocator::Get().Enter();
  ++depth;
}

Scope::~Scope() {
  --depth;
  Allocator::Get().Leave();
}

Stats Read() { return Allocator::Get().Read(); }

void Trim() { Allocator::Get().Trim(); }

void SetLimit(int64_t bytes) { Allocator::Get().SetLimit(bytes); }

int64_t Limit() { return Allocator::Get().Limit(); }

void FailAllocations(int64_t after, int64_t count, Failing how) {
  Allocator::Get().FailAllocations(after, count, how);
}

}  // namespace selfedit::workspace
