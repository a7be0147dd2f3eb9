// What the kernels share: types, 16-byte packs, reductions in fixed order, tiles over ragged rows, launches.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "kernels.h"

#if defined(SELFEDIT_EMULATE)
#include "tests/emulator/emulator.h"  // runs kernels thread by thread on the host, for tests
#else
#define SELFEDIT_CHECK_ALIGNED(address, bytes) static_cast<void>(0)
#define SELFEDIT_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace selfedit::cuda {

// ---- launches
// -----------------------------------------------------------------------------------------------

// Keeps the first failure for TakeError (common.cu).
void KeepError(cudaError_t error);

template <typename... Parameters, typename... Arguments>
void Launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, Stream stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(SELFEDIT_EMULATE)
  emulator::Run(grid, threads, shared, [&] { kernel(static_cast<Parameters>(arguments)...); });
  (void)stream;
#else
  if (shared > 48 * 1024) {
    KeepError(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }
  kernel<<<grid, threads, shared, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  KeepError(cudaGetLastError());
#endif
}

__host__ __device__ constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr unsigned Blocks(int64_t count, int64_t a_block) {
  return static_cast<unsigned>(CeilDiv(count, a_block));
}

template <typename T>
struct Tag {
  using Element = T;
};
// Calls body with the tag of a run-time type.
template <typename Body>
void Typed(Type type, Body body) {
  switch (type) {
    case Type::kFloat32:
      return body(Tag<float>());
    case Type::kBFloat16:
      return body(Tag<__nv_bfloat16>());
    case Type::kFloat16:
      return body(Tag<__half>());
  }
}

// The same for operands of `type` and a result of y_type, which is `type` or float.
template <typename Body>
void TypedResult(Type type, Type y_type, Body body) {
  Typed(type, [&](auto tag) {
    if (y_type == Type::kFloat32) return body(tag, Tag<float>());
    body(tag, tag);
  });
}

// ---- elements and packs of 16 bytes
// -------------------------------------------------------------------------

__host__ __device__ inline float ToFloat(float x) { return x; }
__host__ __device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__host__ __device__ inline float ToFloat(__half x) { return __half2float(x); }

template <typename T>
__host__ __device__ inline T FromFloat(float x);
template <>
__host__ __device__ inline float FromFloat<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__host__ __device__ inline __half FromFloat<__half>(float x) {
  return __float2half(x);
}

template <typename T>
constexpr int kPackOf = 16 / static_cast<int>(sizeof(T));

// N neighbours, moved by one load or store when N fills 16 bytes.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};
template <typename T, int N>
__device__ inline Pack<T, N> LoadPack(const T* from) {
  SELFEDIT_CHECK_ALIGNED(from, sizeof(Pack<T, N>));
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <typename T, int N>
__device__ inline void StorePack(T* to, const Pack<T, N>& pack) {
  SELFEDIT_CHECK_ALIGNED(to, sizeof(Pack<T, N>));
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
template <typename T, int N>
__device__ inline void LoadFloats(const T* from, float (&to)[N]) {
  const Pack<T, N> pack = LoadPack<T, N>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = ToFloat(pack.v[i]);
}
template <typename T, int N>
__device__ inline void StoreFloats(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.v[i] = FromFloat<T>(from[i]);
  StorePack(to, pack);
}

// True when rows of `width` elements may be read in packs from all these pointers (null: no matter).
inline bool Aligned(int64_t elements_a_pack, int64_t width) { return width % elements_a_pack == 0; }
template <typename... Rest>
bool Aligned(int64_t elements_a_pack, int64_t width, const void* pointer, Rest... rest) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && Aligned(elements_a_pack, width, rest...);
}

// Calls body with N (packs or 1) as a type, and a pointer cast.
template <typename Body, typename... Pointers>
void Packed(Type type, int64_t width, Body body, Pointers... pointers) {
  Typed(type, [&](auto tag) {
    constexpr int N = kPackOf<typename decltype(tag)::Element>;
    if (Aligned(N, width, pointers...)) {
      body(tag, std::integral_constant<int, N>());
    } else {
      body(tag, std::integral_constant<int, 1>());
    }
  });
}

// ---- reductions: every lane gets the result, the order is fixed
// ---------------------------------------------

constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
__device__ inline T WarpSum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ inline float WarpMax(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Sum over a block of kThreads; all threads call it.
template <int kThreads, typename T>
__device__ inline T BlockSum(T x) {
  __shared__ T parts[kThreads / 32];
  x = WarpSum(x);
  __syncthreads();  // the last call's parts have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = parts[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w) sum += parts[w];
  return sum;
}
template <int kThreads>
__device__ inline float BlockMax(float x) {
  __shared__ float parts[kThreads / 32];
  x = WarpMax(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float most = parts[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w) most = fmaxf(most, parts[w]);
  return most;
}

// ---- ragged rows
// --------------------------------------------------------------------------------------------

// Last owner whose first row is at or before `row` (the one that has it, when any does); owners >= 1.
__device__ inline int32_t OwnerOf(const int32_t* offsets, int32_t owners, int32_t row) {
  int32_t low = 0, high = owners;  // offsets[low] <= row < offsets[high] where it lies inside
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (offsets[middle] <= row ? low : high) = middle;
  }
  return low;
}

// Segment of row t, or -1.
__device__ inline int32_t SegmentOf(const Segments& segments, int64_t t) {
  const int32_t slots = static_cast<int32_t>(segments.slots);
  if (slots == 0 || t >= segments.offsets[slots]) return -1;
  return OwnerOf(segments.offsets, slots, static_cast<int32_t>(t));
}

// Rows [begin, end) of one owner (a slot or a document); owner -1: this block has nothing to do.
struct Tile {
  int32_t owner, begin, end;
};
// Tiles of `height` rows numbered through the owners; the last tile of an owner may be shorter. There are at
// most rows / height + owners of them (MostTiles): the grid of a capacity. All threads of the block call it.
__device__ inline Tile FindTile(const int32_t* offsets, int32_t owners, int32_t height, int32_t index) {
  __shared__ Tile found;
  if (threadIdx.x < 32) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x);
    int32_t before = 0;
    bool any = false;
    for (int32_t base = 0; base < owners && !any; base += 32) {
      const int32_t owner = base + lane;
      const int32_t begin = owner < owners ? offsets[owner] : 0;
      const int32_t end = owner < owners ? offsets[owner + 1] : 0;
      const int32_t tiles = (end - begin + height - 1) / height;
      int32_t sum = tiles;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int32_t other = __shfl_up_sync(kAllLanes, sum, step);
        if (lane >= step) sum += other;
      }
      const int32_t place = index - (before + sum - tiles);
      const bool hit = place >= 0 && place < tiles;
      if (hit) {
        const int32_t first = begin + place * height;
        found = {owner, first, first + height < end ? first + height : end};
      }
      any = __ballot_sync(kAllLanes, hit) != 0;
      before += __shfl_sync(kAllLanes, sum, 31);
    }
    if (!any && lane == 0) found = {-1, 0, 0};
  }
  __syncthreads();
  const Tile tile = found;
  __syncthreads();
  return tile;
}
inline int64_t MostTiles(int64_t rows, int64_t owners, int64_t height) { return rows / height + owners; }

}  // namespace selfedit::cuda
