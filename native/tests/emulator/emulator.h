// Runs CUDA kernels on the host, thread by thread, so that their own code is tested where no GPU is. A .cu
// file is compiled as C++ with SELFEDIT_EMULATE: blocks run one after the other, the threads of a block are
// fibers that take turns at barriers and shuffles. Tests only; slow, and blind to races within a warp.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

namespace selfedit::cuda::emulator {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
extern Index thread_index, block_index, grid_size;

void Run(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel);
unsigned char* DynamicShared();
void Barrier();

// Every lane of the warp offers 16 bytes and then sees those of all.
struct Offer {
  unsigned char bytes[16];
};
const Offer* Exchange(const void* mine, size_t bytes);
unsigned Lane();

template <typename T>
T Shuffle(T mine, unsigned from) {
  T result;
  std::memcpy(&result, Exchange(&mine, sizeof(T))[from].bytes, sizeof(T));
  return result;
}

void LoadMatrices(uint32_t (&r)[4], const void* row, bool transpose);
// a, b and c as in mma.cuh; element(word, half) widens one of the two elements of a word.
void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*element)(uint16_t));

// Copies happen no sooner than when they are waited for.
void Copy(void* to, const void* from, int bytes);
void Commit();
void Wait(int pending);
// x86 would allow what a GPU does not.
void CheckAligned(const void* address, size_t bytes);

}  // namespace selfedit::cuda::emulator

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx ::selfedit::cuda::emulator::thread_index
#define blockIdx ::selfedit::cuda::emulator::block_index
#define gridDim ::selfedit::cuda::emulator::grid_size
#define SELFEDIT_CHECK_ALIGNED(address, bytes) ::selfedit::cuda::emulator::CheckAligned(address, bytes)
#define SELFEDIT_DYNAMIC_SHARED(name) unsigned char* name = ::selfedit::cuda::emulator::DynamicShared()

namespace selfedit::cuda {

using std::max;
using std::min;

inline void __syncthreads() { emulator::Barrier(); }
template <typename T>
T __shfl_xor_sync(unsigned, T x, int step) {
  return emulator::Shuffle(x, emulator::Lane() ^ static_cast<unsigned>(step));
}
template <typename T>
T __shfl_sync(unsigned, T x, int from) {
  return emulator::Shuffle(x, static_cast<unsigned>(from) % 32);
}
template <typename T>
T __shfl_up_sync(unsigned, T x, int step) {
  const int from = static_cast<int>(emulator::Lane()) - step;
  return emulator::Shuffle(x, static_cast<unsigned>(from < 0 ? static_cast<int>(emulator::Lane()) : from));
}
inline unsigned __ballot_sync(unsigned, bool x) {
  const unsigned mine = x;
  const emulator::Offer* all = emulator::Exchange(&mine, sizeof(mine));
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) result |= static_cast<unsigned>(all[lane].bytes[0]) << lane;
  return result;
}
template <typename T>
T atomicAdd(T* to, T x) {
  const T before = *to;
  *to += x;
  return before;
}
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }

inline float WidenBFloat16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }
inline float WidenHalf(uint16_t x) { return __half2float(std::bit_cast<__half>(x)); }
inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16) {
  emulator::Mma(c, a, b0, b1, WidenBFloat16);
}
inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
  emulator::Mma(c, a, b0, b1, WidenHalf);
}
template <bool kTranspose>
void LoadMatrices(uint32_t (&r)[4], const void* row) {
  emulator::LoadMatrices(r, row, kTranspose);
}
inline void CopyAsync(void* to, const void* from, int bytes) { emulator::Copy(to, from, bytes); }
inline void CommitCopies() { emulator::Commit(); }
template <int kPending>
void WaitCopies() {
  emulator::Wait(kPending);
}

}  // namespace selfedit::cuda
