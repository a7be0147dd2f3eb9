#include "tests/emulator/emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace selfedit::cuda::emulator {

Index thread_index, block_index, grid_size;

namespace {

constexpr size_t kStackBytes = 128 * 1024;

struct PendingCopy {
  void* to;
  const void* from;
  int bytes;
  int64_t group;
};

struct Fiber {
  ucontext_t context;  // for its start; later turns are jumps, which cost no system call
  jmp_buf place;
  bool started = false;
  std::vector<PendingCopy> copies;
  int64_t group = 0;
  std::unique_ptr<unsigned char[]> stack;
  bool done = false;
  int64_t exchanges = 0;  // how many this thread has reached
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Offer> offers;  // [threads], two generations: a fast lane may offer again before a slow one reads
std::vector<unsigned char> dynamic_shared;
jmp_buf scheduler;
int current = 0, alive = 0, arrived = 0, threads_of_block = 0;
int64_t generation = 0;  // of barriers
int64_t blocks_run = 0;
uint64_t chance = 1;
const std::function<void()>* body = nullptr;

void Entry() {
  (*body)();
  fibers[current]->done = true;
  _longjmp(scheduler, 1);
}

// No exception may leave a fiber.
[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

void Yield() {
  if (_setjmp(fibers[current]->place) == 0) _longjmp(scheduler, 1);
}

// Lets fiber `current` run until it yields or ends.
void Resume() {
  Fiber* fiber = fibers[current].get();
  if (_setjmp(scheduler) != 0) return;
  if (fiber->started) _longjmp(fiber->place, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

}  // namespace

unsigned char* DynamicShared() {
  const auto address = reinterpret_cast<uintptr_t>(dynamic_shared.data());
  return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
}

unsigned Lane() { return thread_index.x % 32; }

// A thread that has ended counts as arrived.
void Barrier() {
  const int64_t mine = generation;
  ++arrived;
  while (generation == mine) {
    if (arrived + threads_of_block - alive == threads_of_block) {
      arrived = 0;
      ++generation;
      return;
    }
    Yield();
  }
}

const Offer* Exchange(const void* mine, size_t bytes) {
  const int first = current / 32 * 32;
  const int64_t turn = ++fibers[current]->exchanges;
  Offer* places = offers.data() + turn % 2 * threads_of_block;
  std::memcpy(places[current].bytes, mine, bytes);
  for (;;) {
    bool all = true;
    for (int lane = first; lane < first + 32; ++lane) all = all && fibers[lane]->exchanges >= turn;
    if (all) return places + first;
    Yield();
  }
}

void CheckAligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) Fail("an access is not aligned");
}

void Copy(void* to, const void* from, int bytes) {
  CheckAligned(to, 16);
  CheckAligned(from, 16);
  Fiber& fiber = *fibers[current];
  fiber.copies.push_back({to, from, bytes, fiber.group});
}

void Commit() { ++fibers[current]->group; }

void Wait(int pending) {
  Fiber& fiber = *fibers[current];
  std::erase_if(fiber.copies, [&](const PendingCopy& copy) {
    if (copy.group >= fiber.group - pending) return false;
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    return true;
  });
}

void LoadMatrices(uint32_t (&r)[4], const void* row, bool transpose) {
  CheckAligned(row, 16);
  const Offer* all = Exchange(&row, sizeof(row));
  const unsigned lane = Lane();
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    uint16_t pair[2];
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned along = lane % 4 * 2 + half, across = lane / 4;
      const uint16_t* source;
      std::memcpy(&source, all[8 * matrix + (transpose ? along : across)].bytes, sizeof(source));
      pair[half] = source[transpose ? across : along];
    }
    std::memcpy(&r[matrix], pair, 4);
  }
}

void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*element)(uint16_t)) {
  const auto value = [&](const unsigned char* bytes, unsigned word, unsigned half) {
    uint16_t x;
    std::memcpy(&x, bytes + 4 * word + 2 * half, 2);
    return element(x);
  };
  const unsigned lane = Lane();
  float a_rows[2][16], b_columns[2][16];  // of this lane's rows and columns
  const Offer* all = Exchange(a, 16);
  for (unsigned k = 0; k < 16; ++k) {
    for (unsigned row = 0; row < 2; ++row) {
      a_rows[row][k] = value(all[lane / 4 * 4 + k % 8 / 2].bytes, row + k / 8 * 2, k % 2);
    }
  }
  const uint32_t b[2] = {b0, b1};
  all = Exchange(b, 8);
  for (unsigned k = 0; k < 16; ++k) {
    for (unsigned column = 0; column < 2; ++column) {
      b_columns[column][k] = value(all[(lane % 4 * 2 + column) * 4 + k % 8 / 2].bytes, k / 8, k % 2);
    }
  }
  for (unsigned e = 0; e < 4; ++e) {
    for (unsigned k = 0; k < 16; ++k) c[e] += a_rows[e / 2][k] * b_columns[e % 2][k];
  }
}

void Run(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel) {
  body = &kernel;
  threads_of_block = threads;
  offers.assign(2 * static_cast<size_t>(threads), {});
  grid_size = {grid.x, grid.y, grid.z};
  while (static_cast<int>(fibers.size()) > threads) fibers.pop_back();
  while (static_cast<int>(fibers.size()) < threads) fibers.push_back(std::make_unique<Fiber>());
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        dynamic_shared.assign(shared + 128, 0xff);  // NaN, as good as uninitialised
        for (auto& fiber : fibers) {
          if (!fiber->stack) fiber->stack.reset(new unsigned char[kStackBytes]);
          fiber->done = fiber->started = false;
          fiber->copies.clear();
          fiber->group = 0;
          fiber->exchanges = 0;
          getcontext(&fiber->context);
          fiber->context.uc_stack.ss_sp = fiber->stack.get();
          fiber->context.uc_stack.ss_size = kStackBytes;
          fiber->context.uc_link = nullptr;
          makecontext(&fiber->context, Entry, 0);
        }
        arrived = 0;
        ++blocks_run;
        for (alive = threads; alive > 0;) {
          // A missing barrier shows in some order: forwards, backwards, or with warps left behind at random.
          chance = chance * 6364136223846793005u + 1442695040888963407u;
          const uint64_t behind = blocks_run % 3 == 2 ? chance >> 32 : 0;
          for (int turn = 0; turn < threads; ++turn) {
            current = blocks_run % 3 == 0 ? turn : threads - 1 - turn;
            if (fibers[current]->done || (behind >> current / 32 & 1) != 0) continue;
            thread_index = {static_cast<unsigned>(current), 0, 0};
            Resume();
            if (fibers[current]->done) --alive;
          }
        }
      }
    }
  }
}

}  // namespace selfedit::cuda::emulator
