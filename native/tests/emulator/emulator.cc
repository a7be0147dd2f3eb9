#include "tests/emulator/emulator.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __shared__
#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <vector>

namespace selfedit::cuda::emulator {

Index thread_index, block_index, grid_size;

namespace {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  bool done = false;
  int64_t exchanges = 0;  // how many this thread has reached
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Offer> offers;  // [threads], two generations: a fast lane may offer again before a slow one reads
std::vector<unsigned char> dynamic_shared;
ucontext_t scheduler;
int current = 0, alive = 0, arrived = 0, threads_of_block = 0;
int64_t generation = 0;  // of barriers
const std::function<void()>* body = nullptr;

void Entry() {
  (*body)();
  fibers[current]->done = true;
}

void Yield() { swapcontext(&fibers[current]->context, &scheduler); }

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

void LoadMatrices(uint32_t (&r)[4], const void* row, bool transpose) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) throw std::logic_error("ldmatrix: a row is not aligned");
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
          fiber->done = false;
          fiber->exchanges = 0;
          getcontext(&fiber->context);
          fiber->context.uc_stack.ss_sp = fiber->stack.get();
          fiber->context.uc_stack.ss_size = kStackBytes;
          fiber->context.uc_link = &scheduler;
          makecontext(&fiber->context, Entry, 0);
        }
        arrived = 0;
        for (alive = threads; alive > 0;) {
          for (current = 0; current < threads; ++current) {
            if (fibers[current]->done) continue;
            thread_index = {static_cast<unsigned>(current), 0, 0};
            swapcontext(&scheduler, &fibers[current]->context);
            if (fibers[current]->done) --alive;
          }
        }
      }
    }
  }
}

}  // namespace selfedit::cuda::emulator
