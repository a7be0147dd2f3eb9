// AdamW of all slots at once, in torch's order of operations (as cpu/isa/adamw.h): norms by parts, then one
// pass over values, moments and shadow. 26 or 30 bytes a value, which is all its time.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kAdamThreads = 256;

// Part p of slot s: values p, p + kNormParts, … of the packs.
template <int N>
__global__ void __launch_bounds__(kAdamThreads) NormKernel(AdamWSlots slots) {
  const int64_t s = blockIdx.y;
  if (slots.adam_step[s] <= 0) return;
  const float* gradient = slots.gradient + s * slots.count;
  double sum = 0;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kAdamThreads + threadIdx.x) * N; i < slots.count;
       i += kNormParts * kAdamThreads * N) {
    const Pack<float, N> g = LoadPack<float, N>(gradient + i);
#pragma unroll
    for (int e = 0; e < N; ++e) sum += static_cast<double>(g.v[e]) * g.v[e];
  }
  sum = BlockSum<kAdamThreads>(sum);
  if (threadIdx.x == 0) slots.partial[s * kNormParts + blockIdx.x] = sum;
}

struct Factors {
  float shrink, decay, w1, b2, w2, root, epsilon, size;
  bool apply;
};

// By one thread; the first block of the slot also reports.
__device__ Factors FactorsOf(const AdamWSlots& slots, int64_t s, bool report) {
  double total = 0;
  for (int64_t p = 0; p < kNormParts; ++p) total += slots.partial[s * kNormParts + p];
  const double norm = sqrt(total), rate = slots.learning_rate[s];
  const int32_t step = slots.adam_step[s];
  const SlotOptimizer o = slots.optimizer[s];
  Factors f;
  f.apply = norm - norm == 0;  // finite
  if (report) {
    slots.norm[s] = norm;
    if (!f.apply && slots.failed_step != nullptr && slots.failed_step[s] == 0) slots.failed_step[s] = step;
  }
  const double clip = o.clip > 0 && o.clip / (norm + 1e-6) < 1 ? o.clip / (norm + 1e-6) : 1;
  f.shrink = static_cast<float>(clip);
  f.decay = static_cast<float>(1 - rate * o.weight_decay);
  f.w1 = static_cast<float>(1 - o.beta1);
  f.b2 = static_cast<float>(o.beta2);
  f.w2 = static_cast<float>(1 - o.beta2);
  f.root = static_cast<float>(sqrt(1 - pow(o.beta2, static_cast<double>(step))));
  f.epsilon = static_cast<float>(o.epsilon);
  f.size = static_cast<float>(-rate / (1 - pow(o.beta1, static_cast<double>(step))));
  return f;
}

template <typename S, int N>
__global__ void __launch_bounds__(kAdamThreads) AdamWKernel(AdamWSlots slots) {
  __shared__ Factors shared;
  const int64_t s = blockIdx.y;
  if (slots.adam_step[s] <= 0) return;
  if (threadIdx.x == 0) shared = FactorsOf(slots, s, blockIdx.x == 0);
  __syncthreads();
  const Factors f = shared;
  if (!f.apply) return;
  const int64_t base = s * slots.count, stride = static_cast<int64_t>(gridDim.x) * kAdamThreads * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kAdamThreads + threadIdx.x) * N; i < slots.count;
       i += stride) {
    Pack<float, N> x = LoadPack<float, N>(slots.value + base + i);
    Pack<float, N> m = LoadPack<float, N>(slots.first_moment + base + i);
    Pack<float, N> v = LoadPack<float, N>(slots.second_moment + base + i);
    const Pack<float, N> g = LoadPack<float, N>(slots.gradient + base + i);
    Pack<S, N> shadow;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float gradient = g.v[e] * f.shrink;
      m.v[e] = m.v[e] + (gradient - m.v[e]) * f.w1;
      v.v[e] = v.v[e] * f.b2 + f.w2 * gradient * gradient;
      x.v[e] = x.v[e] * f.decay + f.size * m.v[e] / (sqrtf(v.v[e]) / f.root + f.epsilon);
      shadow.v[e] = FromFloat<S>(x.v[e]);
    }
    StorePack(slots.value + base + i, x);
    StorePack(slots.first_moment + base + i, m);
    StorePack(slots.second_moment + base + i, v);
    if (slots.shadow != nullptr) StorePack(static_cast<S*>(slots.shadow) + base + i, shadow);
  }
}

}  // namespace

void AdamW(const AdamWSlots& slots, Stream stream) {
  const unsigned S = static_cast<unsigned>(slots.slots);
  // The pack of a 16-bit shadow is half as long: 8 bytes suffice for it, so 16 are asked of all.
  const bool packs = Aligned(4, slots.count, slots.value, slots.first_moment, slots.second_moment,
                             slots.gradient, slots.shadow);
  const int64_t blocks = CeilDiv(slots.count, kAdamThreads * 4 * 4);
  Launch(packs ? NormKernel<4> : NormKernel<1>, dim3(kNormParts, S), kAdamThreads, 0, stream, slots);
  Typed(slots.shadow_type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(packs ? AdamWKernel<T, 4> : AdamWKernel<T, 1>, dim3(static_cast<unsigned>(blocks), S),
           kAdamThreads, 0, stream, slots);
  });
}

}  // namespace selfedit::cuda
