// Slow twin of kernels/attention_forward.cu and attention_backward.cu.
#include <algorithm>
#include <vector>

#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

// First key that query i sees of a document that begins at `start`.
int64_t FirstKey(const AttentionShape& shape, int64_t start, int64_t i) {
  return shape.window > 0 ? std::max(start, i - shape.window + 1) : start;
}

// Rows of one document and head.
struct Head {
  Type type;
  const AttentionShape& shape;
  int64_t h;
  int64_t Q(int64_t i, int64_t c) const { return i * shape.q_stride + h * shape.d + c; }
  int64_t K(int64_t j, int64_t c) const {
    return j * shape.kv_stride + h / (shape.H / shape.G) * shape.d + c;
  }
  int64_t Out(int64_t i, int64_t c) const { return (i * shape.H + h) * shape.d + c; }
  double Score(const void* q, const void* k, int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t c = 0; c < shape.d; ++c) sum += Load(type, q, Q(i, c)) * Load(type, k, K(j, c));
    return sum * shape.scale;
  }
};

// body(head, first key, query)
template <typename Body>
void ForQueries(Type type, const AttentionShape& shape, Body body) {
  for (int64_t document = 0; document < shape.documents; ++document) {
    const int64_t begin = shape.document_offsets[document], end = shape.document_offsets[document + 1];
    for (int64_t h = 0; h < shape.H; ++h) {
      for (int64_t i = begin; i < end; ++i) body(Head{type, shape, h}, FirstKey(shape, begin, i), i);
    }
  }
}

void ZeroLeftover(Type type, const AttentionShape& shape, int64_t stride, int64_t width, void* to) {
  for (int64_t t = shape.document_offsets[shape.documents]; t < shape.tokens; ++t) {
    for (int64_t c = 0; c < width; ++c) Store(type, to, t * stride + c, 0);
  }
}

}  // namespace

void AttentionForward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                      void* out, float* lse, Stream) {
  ForQueries(type, shape, [&](const Head& head, int64_t begin, int64_t i) {
    std::vector<double> p;
    for (int64_t j = begin; j <= i; ++j) p.push_back(head.Score(q, k, i, j));
    const double most = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - most);
    if (lse != nullptr) lse[i * shape.H + head.h] = static_cast<float>(most + std::log(total));
    for (int64_t c = 0; c < shape.d; ++c) {
      double sum = 0;
      for (int64_t j = begin; j <= i; ++j) sum += Round(type, p[j - begin]) * Load(type, v, head.K(j, c));
      Store(type, out, head.Out(i, c), sum / total);
    }
  });
  ZeroLeftover(type, shape, shape.H * shape.d, shape.H * shape.d, out);
  if (lse == nullptr) return;
  for (int64_t i = shape.document_offsets[shape.documents] * shape.H; i < shape.tokens * shape.H; ++i)
    lse[i] = 0;
}

void AttentionBackward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                       const void* out, const float* lse, const void* dout, float* delta, void* dq, void* dk,
                       void* dv, Stream) {
  std::vector<double> dq_sums(shape.tokens * shape.q_stride), dk_sums(shape.tokens * shape.kv_stride);
  std::vector<double> dv_sums(dk_sums.size());
  ForQueries(type, shape, [&](const Head& head, int64_t begin, int64_t i) {
    double sum = 0;
    for (int64_t c = 0; c < shape.d; ++c) {
      sum += Load(type, out, head.Out(i, c)) * Load(type, dout, head.Out(i, c));
    }
    delta[i * shape.H + head.h] = static_cast<float>(sum);
    for (int64_t j = begin; j <= i; ++j) {
      const double p = std::exp(head.Score(q, k, i, j) - lse[i * shape.H + head.h]);
      double dp = 0;
      for (int64_t c = 0; c < shape.d; ++c) {
        dp += Load(type, dout, head.Out(i, c)) * Load(type, v, head.K(j, c));
      }
      const double ds = Round(type, p * (dp - sum)) * shape.scale;
      for (int64_t c = 0; c < shape.d; ++c) {
        dq_sums[head.Q(i, c)] += ds * Load(type, k, head.K(j, c));
        dk_sums[head.K(j, c)] += ds * Load(type, q, head.Q(i, c));
        dv_sums[head.K(j, c)] += Round(type, p) * Load(type, dout, head.Out(i, c));
      }
    }
  });
  // Leftover rows have sums of 0; what lies between the heads and the stride is not ours.
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t c = 0; c < shape.H * shape.d; ++c) {
      Store(type, dq, t * shape.q_stride + c, dq_sums[t * shape.q_stride + c]);
    }
    for (int64_t c = 0; c < shape.G * shape.d; ++c) {
      Store(type, dk, t * shape.kv_stride + c, dk_sums[t * shape.kv_stride + c]);
      Store(type, dv, t * shape.kv_stride + c, dv_sums[t * shape.kv_stride + c]);
    }
  }
}

}  // namespace selfedit::cuda
