// Gumbel-max sampling with top-k and top-p, one block a row. The cut is found by radix selection on the bits
// of the logits: four digits of eight bits, with counts (top-k) or masses in integers of 2^-44 (top-p), so
// that every sum is exact whatever order the threads come in.
#include "core/philox.h"
#include "row_stats.cuh"

namespace selfedit::cuda {
namespace {

using Mass = unsigned long long;
constexpr double kMassUnit = 17592186044416.0;  // 2^44; up to 2^18 tokens of mass 1 fit 64 bits

// The last token that is kept: those with a larger z, and of equal z those with id <= this one.
struct Cut {
  float z;
  int32_t id;
  __device__ bool Keeps(float other, int64_t j) const { return other > z || (other == z && j <= id); }
};

// Order of floats as that of unsigned integers; -0 counts as 0.
__device__ inline uint32_t OrderOf(float z) {
  const uint32_t bits = __float_as_uint(z + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float FloatOf(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

template <typename T>
struct Row {
  const T* logits;
  int64_t V;
  float inverse, maximum;
  // Rounded by itself: a fused multiply-add behind it would give one logit two values.
  __device__ float At(int64_t j) const { return __fmul_rn(ToFloat(logits[j]), inverse); }
  __device__ Mass MassOf(float z) const {
    return static_cast<Mass>(static_cast<double>(expf(z - maximum)) * kMassUnit);
  }
};

// Exclusive sum over the block, in thread order.
__device__ int32_t CountBefore(int32_t x) {
  __shared__ int32_t parts[kHeadThreads / 32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int32_t sum = x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) parts[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += parts[w];
  return sum - x;
}

// The token at which the tokens that `among` keeps, best first, reach `wanted` units in total; kByMass:
// units are masses, else every token is one unit.
template <bool kByMass, typename T>
__device__ Cut Reach(const Row<T>& row, Cut among, Mass wanted) {
  __shared__ Mass bins[256];
  __shared__ uint32_t chosen;
  __shared__ Mass left;
  __shared__ int32_t found;
  uint32_t prefix = 0, mask = 0;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (thread < 256) bins[thread] = 0;
    __syncthreads();
    for (int64_t j = thread; j < row.V; j += kHeadThreads) {
      const float z = row.At(j);
      const uint32_t order = OrderOf(z);
      if ((order & mask) != prefix || !among.Keeps(z, j)) continue;
      const Mass units = kByMass ? row.MassOf(z) : 1;
      if (units > 0) atomicAdd(&bins[order >> shift & 255], units);
    }
    __syncthreads();
    if (thread == 0) {
      Mass rest = wanted;
      int bin = 255;
      while (bin > 0 && bins[bin] < rest) rest -= bins[bin--];
      chosen = static_cast<uint32_t>(bin);
      left = rest;
    }
    __syncthreads();
    prefix |= chosen << shift;
    mask |= 255u << shift;
    wanted = left;
  }
  // All of one z now: the count-th of them in order of ids. Every thread looks through its own stretch.
  const float z = FloatOf(prefix);
  const Mass each = kByMass ? row.MassOf(z) : 1;
  const int64_t count = each == 0 ? 1 : static_cast<int64_t>((wanted + each - 1) / each);
  const int64_t stretch = CeilDiv(row.V, kHeadThreads), first = thread * stretch;
  const int64_t last = min(row.V, first + stretch);
  int32_t mine = 0;
  for (int64_t j = first; j < last; ++j) mine += row.At(j) == z && among.Keeps(z, j);
  if (thread == 0) found = static_cast<int32_t>(row.V);
  int64_t before = CountBefore(mine);  // waits for all threads
  if (before < count && count <= before + mine) {
    for (int64_t j = first; j < last; ++j) {
      if (row.At(j) == z && among.Keeps(z, j) && ++before == count) found = static_cast<int32_t>(j);
    }
  }
  __syncthreads();
  return {z, found};
}

template <typename T>
__device__ Cut CutOf(const Row<T>& row, int32_t top_k, float top_p) {
  Cut cut{-INFINITY, static_cast<int32_t>(row.V)};
  if (top_k > 0 && top_k < row.V) cut = Reach<false>(row, cut, static_cast<Mass>(top_k));
  if (top_p < 1) {
    Mass part = 0;
    for (int64_t j = threadIdx.x; j < row.V; j += kHeadThreads) {
      const float z = row.At(j);
      if (cut.Keeps(z, j)) part += row.MassOf(z);
    }
    const Mass total = BlockSum<kHeadThreads>(part);
    const Mass wanted = static_cast<Mass>(ceil(static_cast<double>(top_p) * static_cast<double>(total)));
    cut = Reach<true>(row, cut, min(max(wanted, Mass{1}), total));
  }
  return cut;
}

// Larger x wins, then the lower id.
struct Best {
  float x;
  int32_t id;
  __device__ void Offer(float other, int32_t other_id) {
    if (other > x || (other == x && other_id < id)) {
      x = other;
      id = other_id;
    }
  }
};
__device__ Best BlockBest(Best best) {
  __shared__ Best parts[kHeadThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float x = __shfl_xor_sync(kAllLanes, best.x, step);
    const int32_t id = __shfl_xor_sync(kAllLanes, best.id, step);
    best.Offer(x, id);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  for (const Best& part : parts) best.Offer(part.x, part.id);
  return best;
}

__device__ inline float Gumbel(uint32_t bits) {
  const float v = fminf(static_cast<float>(bits) * 0x1p-32f + 0x1p-33f, 1 - 0x1p-24f);
  return -logf(-log1pf(-v));
}

template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    SampleKernel(const T* logits, int64_t V, const float* temperature, const float* top_p,
                 const int32_t* top_k, const uint64_t* key, const int64_t* position, int32_t* token,
                 float* logprob) {
  const int64_t r = blockIdx.x;
  const bool greedy = temperature[r] == 0;
  Row<T> row{logits + r * V, V, greedy ? 1.0f : 1 / temperature[r], 0};
  const RowStats stats = StatsOfRow<T, N>(row.logits, V, row.inverse);
  row.maximum = stats.maximum;
  if (!(stats.sum > 0)) {  // NaN or infinity among the logits, or nothing but -inf
    if (threadIdx.x == 0) {
      token[r] = -1;
      logprob[r] = NAN;
    }
    return;
  }
  Best best{-INFINITY, INT32_MAX};
  if (greedy) {
    for (int64_t j = threadIdx.x; j < V; j += kHeadThreads) best.Offer(row.At(j), static_cast<int32_t>(j));
  } else {
    const Cut cut = CutOf(row, top_k[r], top_p[r]);
    for (int64_t lane = threadIdx.x; lane * 4 < V; lane += kHeadThreads) {
      const Philox4 bits = Philox(key[r], static_cast<uint64_t>(position[r]), static_cast<uint64_t>(lane));
      for (int64_t j = lane * 4; j < min(V, lane * 4 + 4); ++j) {
        const float z = row.At(j);
        if (cut.Keeps(z, j) && z > -INFINITY) best.Offer(z + Gumbel(bits.v[j % 4]), static_cast<int32_t>(j));
      }
    }
  }
  best = BlockBest(best);
  if (threadIdx.x != 0) return;
  token[r] = best.id;
  logprob[r] = static_cast<float>(row.At(best.id) - stats.Lse());
}

}  // namespace

void SampleRows(Type type, const void* logits, int64_t rows, int64_t V, const float* temperature,
                const float* top_p, const int32_t* top_k, const uint64_t* key, const int64_t* position,
                int32_t* token, float* logprob, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    constexpr int N = kPackOf<T>;
    Launch(Aligned(N, V, logits) ? SampleKernel<T, N> : SampleKernel<T, 1>, dim3(static_cast<unsigned>(rows)),
           kHeadThreads, 0, stream, static_cast<const T*>(logits), V, temperature, top_p, top_k, key,
           position, token, logprob);
  });
}

}  // namespace selfedit::cuda
