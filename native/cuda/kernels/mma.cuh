// Tensor-core products of 16-bit elements: mma.sync m16n8k16 and ldmatrix (PTX ISA, "Warp-level matrix
// instructions"). With lane = 4 row + column (row 0 … 7, column 0 … 3):
//   c[16, 8]   c[0], c[1] at (row, 2 column + 0, 1), c[2], c[3] at (row + 8, …)
//   a[16, 16]  words of two: a[0] (row, 2 column), a[1] (row + 8, ·), a[2] (row, 2 column + 8), a[3] (row +
//   8, ·) b[16, 8]   words of two along k: b[0] (k = 2 column, n = row), b[1] (k = 2 column + 8, n = row)
#pragma once
#include "common.cuh"

namespace selfedit::cuda {

#if !defined(SELFEDIT_EMULATE)
// c += a b
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices; lane l names row l % 8 of matrix l / 8 (16 bytes, aligned, in shared memory). Word i
// of a lane is then matrix i at (lane / 4, 2 (lane % 4)); with kTranspose of the transposed matrix.
template <bool kTranspose>
__device__ inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}
// Sixteen bytes from global to shared memory without a register; the last 16 - bytes become 0.
__device__ inline void CopyAsync(void* to, const void* from, int bytes) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of the youngest groups are under way.
template <int kPending>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
#endif

// a[16, 16] at tile (stored [row, k]); kTranspose: stored [k, row].
template <bool kTranspose, typename T>
__device__ inline void LoadA(uint32_t (&a)[4], const T* tile, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32), r = lane % 8, low = lane / 8 % 2, high = lane / 16;
  if constexpr (kTranspose) {
    LoadMatrices<true>(a, tile + (r + 8 * high) * stride + 8 * low);
  } else {
    LoadMatrices<false>(a, tile + (r + 8 * low) * stride + 8 * high);
  }
}
// Two neighbouring b[16, 8], columns n … n + 15: b[0], b[1] of the first, b[2], b[3] of the second. Stored
// [n, k]; kTranspose: stored [k, n].
template <bool kTranspose, typename T>
__device__ inline void LoadB(uint32_t (&b)[4], const T* tile, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32), r = lane % 8, low = lane / 8 % 2, high = lane / 16;
  if constexpr (kTranspose) {
    LoadMatrices<true>(b, tile + (r + 8 * low) * stride + 8 * high);
  } else {
    LoadMatrices<false>(b, tile + (r + 8 * high) * stride + 8 * low);
  }
}

template <typename T>
__device__ inline uint32_t PackPair(float low, float high) {
  const Pack<T, 2> pair{{FromFloat<T>(low), FromFloat<T>(high)}};
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace selfedit::cuda
