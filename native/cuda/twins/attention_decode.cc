// Slow twin of kernels/attention_decode.cu.
#include <algorithm>
#include <vector>

#include "cuda/twins/host.h"

namespace selfedit::cuda {

using namespace host;

void AppendKeyValue(Type type, const DecodeShape& shape, const void* k, const void* v, Stream) {
  const int64_t width = shape.G * shape.d;
  for (int64_t b = 0; b < shape.rows; ++b) {
    if (shape.own_k[b] == nullptr) continue;
    for (int64_t c = 0; c < width; ++c) {
      const int64_t to = shape.own_length[b] * width + c, from = b * shape.kv_stride + c;
      Store(type, shape.own_k[b], to, Load(type, k, from));
      Store(type, shape.own_v[b], to, Load(type, v, from));
    }
  }
}

void AttentionDecode(Type type, const DecodeShape& shape, const void* q, int32_t appended, int64_t, float*,
                     void* out, Stream) {
  const int64_t d = shape.d;
  for (int64_t b = 0; b < shape.rows; ++b) {
    const bool idle = shape.own_k[b] == nullptr;
    const int64_t prefix = idle ? 0 : shape.prefix_length[b];
    const int64_t length = idle ? 0 : prefix + shape.own_length[b] + appended;
    const int64_t begin = shape.window > 0 ? std::max<int64_t>(0, length - shape.window) : 0;
    for (int64_t h = 0; h < shape.H; ++h) {
      const int64_t g = h / (shape.H / shape.G);
      const auto at = [&](const void* before, const void* own, int64_t j, int64_t c) {
        return j < prefix ? Load(type, before, (j * shape.G + g) * d + c)
                          : Load(type, own, ((j - prefix) * shape.G + g) * d + c);
      };
      std::vector<double> p(length), sums(d);
      double most = -INFINITY, total = 0;
      for (int64_t j = begin; j < length; ++j) {
        for (int64_t c = 0; c < d; ++c) {
          p[j] += Load(type, q, b * shape.q_stride + h * d + c) * at(shape.prefix_k[b], shape.own_k[b], j, c);
        }
        p[j] *= shape.scale;
        most = std::max(most, p[j]);
      }
      for (int64_t j = begin; j < length; ++j) {
        p[j] = std::exp(p[j] - most);
        total += p[j];
        for (int64_t c = 0; c < d; ++c) sums[c] += p[j] * at(shape.prefix_v[b], shape.own_v[b], j, c);
      }
      for (int64_t c = 0; c < d; ++c) {
        Store(type, out, (b * shape.H + h) * d + c, length == 0 ? 0 : sums[c] / total);
      }
    }
  }
}

void DecodeInput(const DecodeState& state, int32_t* tokens, int32_t* positions, Stream) {
  for (int64_t b = 0; b < state.rows; ++b) {
    tokens[b] = positions[b] = 0;
    if (state.finish[b] != 0) continue;
    tokens[b] = state.last[b];
    positions[b] = state.prefix_length[b] + state.own_length[b];
  }
}

void DecodeUpdate(const DecodeState& state, const int32_t* token, const float* logprob, int32_t appended,
                  Stream) {
  int32_t running = 0;
  for (int64_t b = 0; b < state.rows; ++b) {
    if (state.finish[b] != 0) continue;
    if (token[b] < 0) {
      state.finish[b] = 4;
      continue;
    }
    const int64_t place = b * state.out_capacity + state.count[b];
    state.out_tokens[place] = state.last[b] = token[b];
    state.out_logprobs[place] = logprob[b];
    state.count[b] += 1;
    state.own_length[b] += appended;
    const int32_t* end = state.stop_tokens + state.stops;
    if (std::find(state.stop_tokens, end, token[b]) != end) {
      state.finish[b] = 1;
    } else if (state.count[b] >= state.max_tokens[b]) {
      state.finish[b] = 2;
    } else if (state.prefix_length[b] + state.own_length[b] + 1 >= state.max_positions) {
      state.finish[b] = 3;
    } else {
      ++running;
    }
  }
  if (state.running != nullptr) state.running[0] = running;
}

}  // namespace selfedit::cuda
