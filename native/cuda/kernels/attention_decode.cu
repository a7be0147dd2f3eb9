// Attention of one new token a row over a shared prefix and its own keys, and the state of a decode batch.
// One block: a row, up to four query heads of one key-value head, one split of the keys. A few neighbouring
// lanes hold one key (8 values each); every such group walks its own keys, groups are merged in fixed order.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kThreads = 128, kHeads = 4, kPart = 8;
constexpr int32_t kLeastSplit = 64;

template <typename T>
__device__ inline void LoadPart(const T* from, float (&to)[kPart]) {
  constexpr int N = kPackOf<T>;
#pragma unroll
  for (int i = 0; i < kPart; i += N) {
    const Pack<T, N> pack = LoadPack<T, N>(from + i);
#pragma unroll
    for (int e = 0; e < N; ++e) to[i + e] = ToFloat(pack.v[e]);
  }
}

// Softmax in progress of one head: running maximum, sum of weights, weighted sum of values.
struct Running {
  float most, total, sums[kPart];
  __device__ void Merge(float other_most, float other_total, const float* other) {
    const float top = fmaxf(most, other_most), mine = expf(most - top), theirs = expf(other_most - top);
    total = total * mine + other_total * theirs;
#pragma unroll
    for (int i = 0; i < kPart; ++i) sums[i] = sums[i] * mine + other[i] * theirs;
    most = top;
  }
};

template <typename T, bool kWindow>
__global__ void __launch_bounds__(kThreads)
    DecodeKernel(DecodeShape shape, const T* q, int32_t appended, int32_t splits, int32_t lanes_a_key,
                 float* scratch, T* out) {
  SELFEDIT_DYNAMIC_SHARED(shared);  // [groups, kHeads, d + 2] floats
  const int32_t b = static_cast<int32_t>(blockIdx.x), split = static_cast<int32_t>(blockIdx.z);
  const int32_t H = static_cast<int32_t>(shape.H), G = static_cast<int32_t>(shape.G);
  const int32_t d = static_cast<int32_t>(shape.d), group = H / G, chunks = (group + kHeads - 1) / kHeads;
  const int32_t g = static_cast<int32_t>(blockIdx.y) / chunks;
  const int32_t h0 = g * group + static_cast<int32_t>(blockIdx.y) % chunks * kHeads;
  const int32_t heads = min(kHeads, (g + 1) * group - h0);
  const bool idle = shape.own_k[b] == nullptr;
  const int32_t prefix = idle ? 0 : shape.prefix_length[b];
  const int32_t length = idle ? 0 : prefix + shape.own_length[b] + appended;
  const int32_t begin = kWindow && length > shape.window ? length - static_cast<int32_t>(shape.window) : 0;
  const int32_t share = max(kLeastSplit, (length - begin + splits - 1) / splits);
  const int32_t first = begin + split * share, last = min(length, first + share);
  const T* prefix_k = idle ? nullptr : static_cast<const T*>(shape.prefix_k[b]);
  const T* prefix_v = idle ? nullptr : static_cast<const T*>(shape.prefix_v[b]);
  const T* own_k = static_cast<const T*>(shape.own_k[b]);
  const T* own_v = static_cast<const T*>(shape.own_v[b]);

  const int32_t thread = static_cast<int32_t>(threadIdx.x), part = thread % lanes_a_key * kPart;
  const int32_t walker = thread / lanes_a_key, walkers = kThreads / lanes_a_key;
  const bool holds = part < d;
  Running running[kHeads];
  float query[kHeads][kPart];
#pragma unroll
  for (int e = 0; e < kHeads; ++e) {
    running[e] = {-FLT_MAX, 0, {}};
#pragma unroll
    for (int i = 0; i < kPart; ++i) query[e][i] = 0;
    if (holds && e < heads && !idle) LoadPart(q + b * shape.q_stride + (h0 + e) * d + part, query[e]);
  }
  // All lanes of a warp take the same number of turns, so that they can shuffle.
  for (int32_t base = first; base < last; base += walkers) {
    const int32_t j = base + walker;
    const bool present = j < last;
    float key[kPart] = {}, value[kPart] = {};
    if (present && holds) {
      const bool shared_key = j < prefix;
      const int64_t place = (static_cast<int64_t>(shared_key ? j : j - prefix) * G + g) * d + part;
      LoadPart((shared_key ? prefix_k : own_k) + place, key);
      LoadPart((shared_key ? prefix_v : own_v) + place, value);
    }
#pragma unroll
    for (int e = 0; e < kHeads; ++e) {
      float s = 0;
#pragma unroll
      for (int i = 0; i < kPart; ++i) s += query[e][i] * key[i];
      for (int32_t step = lanes_a_key / 2; step > 0; step /= 2) s += __shfl_xor_sync(kAllLanes, s, step);
      if (present) running[e].Merge(s * shape.scale, 1, value);
    }
  }
  float* merged = reinterpret_cast<float*>(shared);
  const int32_t width = d + 2;
#pragma unroll
  for (int e = 0; e < kHeads; ++e) {
    float* place = merged + (walker * kHeads + e) * width;
    if (thread % lanes_a_key == 0) {
      place[d] = running[e].most;
      place[d + 1] = running[e].total;
    }
    if (holds) {
#pragma unroll
      for (int i = 0; i < kPart; ++i) place[part + i] = running[e].sums[i];
    }
  }
  __syncthreads();
  for (int32_t index = thread; index < heads * d; index += kThreads) {
    const int32_t e = index / d, c = index % d;
    float most = -FLT_MAX, total = 0, sum = 0;
    for (int32_t w = 0; w < walkers; ++w) most = fmaxf(most, merged[(w * kHeads + e) * width + d]);
    for (int32_t w = 0; w < walkers; ++w) {
      const float* place = merged + (w * kHeads + e) * width;
      const float factor = expf(place[d] - most);
      total += place[d + 1] * factor;
      sum += place[c] * factor;
    }
    const int64_t row = static_cast<int64_t>(b) * H + h0 + e;
    if (splits == 1) {
      out[row * d + c] = FromFloat<T>(total > 0 ? sum / total : 0);
      continue;
    }
    float* to = scratch + (row * splits + split) * width;
    to[c] = sum;
    if (c == 0) {
      to[d] = most;
      to[d + 1] = total;
    }
  }
}

// Splits of one (row, head) in order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    MergeKernel(int64_t count, int32_t d, int32_t splits, const float* scratch, T* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / d, c = index % d;
  const float* from = scratch + row * splits * (d + 2);
  float most = -FLT_MAX, total = 0, sum = 0;
  for (int32_t s = 0; s < splits; ++s) most = fmaxf(most, from[s * (d + 2) + d]);
  for (int32_t s = 0; s < splits; ++s) {
    const float factor = expf(from[s * (d + 2) + d] - most);
    total += from[s * (d + 2) + d + 1] * factor;
    sum += from[s * (d + 2) + c] * factor;
  }
  out[index] = FromFloat<T>(total > 0 ? sum / total : 0);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) AppendKernel(DecodeShape shape, const T* k, const T* v) {
  const int64_t b = blockIdx.x, width = shape.G * shape.d;
  if (shape.own_k[b] == nullptr) return;
  const int64_t place = shape.own_length[b] * width;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) {
    static_cast<T*>(shape.own_k[b])[place + c] = k[b * shape.kv_stride + c];
    static_cast<T*>(shape.own_v[b])[place + c] = v[b * shape.kv_stride + c];
  }
}

__global__ void __launch_bounds__(kThreads)
    InputKernel(DecodeState state, int32_t* tokens, int32_t* positions) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= state.rows) return;
  const bool runs = state.finish[b] == 0;
  tokens[b] = runs ? state.last[b] : 0;
  positions[b] = runs ? state.prefix_length[b] + state.own_length[b] : 0;
}

// One block for all rows, so that it can count those that still run.
__global__ void __launch_bounds__(kThreads)
    UpdateKernel(DecodeState state, const int32_t* token, const float* logprob, int32_t appended) {
  int32_t running = 0;
  for (int64_t b = threadIdx.x; b < state.rows; b += kThreads) {
    if (state.finish[b] != 0) continue;
    if (token[b] < 0) {
      state.finish[b] = 4;
      continue;
    }
    const int64_t count = state.count[b];
    state.out_tokens[b * state.out_capacity + count] = token[b];
    state.out_logprobs[b * state.out_capacity + count] = logprob[b];
    state.last[b] = token[b];
    state.count[b] = count + 1;
    state.own_length[b] += appended;
    bool stops = false;
    for (int64_t i = 0; i < state.stops; ++i) stops = stops || state.stop_tokens[i] == token[b];
    const int64_t length = state.prefix_length[b] + state.own_length[b] + 1;
    state.finish[b] = stops                              ? 1
                      : count + 1 >= state.max_tokens[b] ? 2
                      : length >= state.max_positions    ? 3
                                                         : 0;
    running += state.finish[b] == 0;
  }
  running = BlockSum<kThreads>(running);
  if (threadIdx.x == 0 && state.running != nullptr) state.running[0] = running;
}

}  // namespace

void AppendKeyValue(Type type, const DecodeShape& shape, const void* k, const void* v, Stream stream) {
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(AppendKernel<T>, dim3(static_cast<unsigned>(shape.rows)), kThreads, 0, stream, shape,
           static_cast<const T*>(k), static_cast<const T*>(v));
  });
}

void AttentionDecode(Type type, const DecodeShape& shape, const void* q, int32_t appended, int64_t splits,
                     float* scratch, void* out, Stream stream) {
  int32_t lanes_a_key = 1;
  while (lanes_a_key * kPart < shape.d) lanes_a_key *= 2;
  const int64_t chunks = CeilDiv(shape.H / shape.G, kHeads);
  const size_t bytes = sizeof(float) * static_cast<size_t>(kThreads / lanes_a_key * kHeads * (shape.d + 2));
  const dim3 grid(static_cast<unsigned>(shape.rows), static_cast<unsigned>(shape.G * chunks),
                  static_cast<unsigned>(splits));
  const int64_t count = shape.rows * shape.H * shape.d;
  Typed(type, [&](auto tag) {
    using T = typename decltype(tag)::Element;
    Launch(shape.window > 0 ? DecodeKernel<T, true> : DecodeKernel<T, false>, grid, kThreads, bytes, stream,
           shape, static_cast<const T*>(q), appended, static_cast<int32_t>(splits), lanes_a_key, scratch,
           static_cast<T*>(out));
    if (splits > 1) {
      Launch(MergeKernel<T>, dim3(Blocks(count, kThreads)), kThreads, 0, stream, count,
             static_cast<int32_t>(shape.d), static_cast<int32_t>(splits), scratch, static_cast<T*>(out));
    }
  });
}

void DecodeInput(const DecodeState& state, int32_t* tokens, int32_t* positions, Stream stream) {
  Launch(InputKernel, dim3(Blocks(state.rows, kThreads)), kThreads, 0, stream, state, tokens, positions);
}

void DecodeUpdate(const DecodeState& state, const int32_t* token, const float* logprob, int32_t appended,
                  Stream stream) {
  Launch(UpdateKernel, dim3(1), kThreads, 0, stream, state, token, logprob, appended);
}

}  // namespace selfedit::cuda
