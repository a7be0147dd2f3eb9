// Slow twin of kernels/cross_entropy.cu.
#include "cuda/twins/host.h"

namespace selfedit::cuda {
namespace {

using namespace host;

// Natural log of the sum of exp(z), z = logits / temperature of row r.
double LogSum(Type type, const void* logits, int64_t r, int64_t V, double temperature) {
  double most = -INFINITY, sum = 0;
  for (int64_t j = 0; j < V; ++j) most = std::fmax(most, Load(type, logits, r * V + j) / temperature);
  for (int64_t j = 0; j < V; ++j) sum += std::exp(Load(type, logits, r * V + j) / temperature - most);
  return most + std::log(sum);
}

}  // namespace

void LogSoftmaxRows(Type type, const void* logits, const int32_t* target, int64_t rows, int64_t V,
                    float temperature, float* logprob, float* lse, float* entropy, Stream) {
  for (int64_t r = 0; r < rows; ++r) {
    double log_of = 0, chosen = 0, spread = 0;
    if (target[r] >= 0) {
      log_of = LogSum(type, logits, r, V, temperature);
      chosen = Load(type, logits, r * V + target[r]) / temperature - log_of;
      for (int64_t j = 0; j < V; ++j) {
        const double log_p = Load(type, logits, r * V + j) / temperature - log_of, p = std::exp(log_p);
        if (p > 0) spread -= p * log_p;
      }
    }
    logprob[r] = static_cast<float>(chosen);
    if (lse != nullptr) lse[r] = static_cast<float>(log_of);
    if (entropy != nullptr) entropy[r] = static_cast<float>(spread);
  }
}

void LogSoftmaxRowsBackward(Type type, void* logits, const int32_t* target, const float* lse, const float* g,
                            const float* e, const float* entropy, int64_t rows, int64_t V, float temperature,
                            Stream) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < V; ++j) {
      double gradient = 0;
      if (target[r] >= 0) {
        const double log_p = Load(type, logits, r * V + j) / temperature - lse[r], p = std::exp(log_p);
        gradient = g[r] * ((j == target[r] ? 1 : 0) - p);
        if (e != nullptr && e[r] != 0 && p > 0) gradient -= e[r] * p * (log_p + entropy[r]);
      }
      Store(type, logits, r * V + j, gradient / temperature);
    }
  }
}

void CrossEntropy(Type type, void* logits, const int32_t* target, const float* weight, int64_t rows,
                  int64_t V, float* logprob, Stream) {
  for (int64_t r = 0; r < rows; ++r) {
    const double log_of = target[r] < 0 ? 0 : LogSum(type, logits, r, V, 1);
    logprob[r] = target[r] < 0 ? 0 : static_cast<float>(Load(type, logits, r * V + target[r]) - log_of);
    for (int64_t j = 0; j < V; ++j) {
      const double p = target[r] < 0 ? 0 : std::exp(Load(type, logits, r * V + j) - log_of);
      Store(type, logits, r * V + j, target[r] < 0 ? 0 : weight[r] * (p - (j == target[r] ? 1 : 0)));
    }
  }
}

void SlotLoss(const Segments& segments, const float* weight, const float* logprob, const int32_t* step,
              int64_t steps, float* loss, Stream) {
  const int64_t now = step == nullptr ? 0 : step[0];
  if (now >= steps) return;
  for (int64_t s = 0; s < segments.slots; ++s) {
    double sum = 0;
    for (int64_t t = segments.offsets[s]; t < segments.offsets[s + 1]; ++t) {
      sum -= static_cast<double>(weight[t]) * logprob[t];
    }
    loss[now * segments.slots + s] = static_cast<float>(sum);
  }
}

void KlRows(Type type, const void* a, const void* b, int64_t rows, int64_t V, float* kl, Stream) {
  for (int64_t r = 0; r < rows; ++r) {
    const double of_a = LogSum(type, a, r, V, 1), of_b = LogSum(type, b, r, V, 1);
    double sum = 0;
    for (int64_t j = 0; j < V; ++j) {
      const double log_p = Load(type, a, r * V + j) - of_a, log_q = Load(type, b, r * V + j) - of_b;
      if (std::exp(log_p) > 0) sum += std::exp(log_p) * (log_p - log_q);
    }
    kl[r] = static_cast<float>(sum);
  }
}

}  // namespace selfedit::cuda
