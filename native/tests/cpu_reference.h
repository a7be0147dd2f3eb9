// Slow twins of the CPU kernels in double, written as plainly as the formulas, and helpers of their tests.
#pragma once
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"

namespace selfedit::cpu {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
std::vector<T> Normal(int64_t count, uint64_t seed, double deviation = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(normal(engine));
  return values;
}

template <typename T>
std::vector<double> Wide(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

// Largest difference, relative to the largest value of the twin (at least `floor`); NaN anywhere gives
// infinity.
template <typename T>
double Difference(const std::vector<T>& values, const std::vector<double>& twin, double floor = 1e-3) {
  if (values.size() != twin.size()) return kInfinity;
  double worst = 0, size = floor;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = std::abs(static_cast<double>(values[i]) - twin[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? kInfinity : difference;
    size = std::max(size, std::abs(twin[i]));
  }
  return worst / size;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Rounding that sums over a few hundred terms may show.
template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 5e-6 : 1e-13;

// Runs the body once for every instruction set of this machine; those that it lacks are named in the output.
template <typename Body>
void ForEachSimd(Body body) {
  const std::string before = SimdName();
  for (const char* name : {"avx512", "avx2", "portable"}) {
    if (!SelectSimd(name)) {
      std::printf("[          ] this machine cannot run %s\n", name);
      continue;
    }
    SCOPED_TRACE(name);
    ASSERT_STREQ(SimdName(), name);
    body();
  }
  SelectSimd(before.c_str());
}

// OpenMP threads of the calling thread, put back at the end.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

struct AttentionShape {
  std::vector<int32_t> lengths;
  int64_t H, G, d;
  std::vector<int32_t> attended = {};  // a document each; empty: all
  int64_t window = 0;                  // 0: all
  // Keys begin here for query i of document t.
  int64_t KeysBegin(int64_t t, int64_t i) const {
    const int64_t start = Offsets()[t];
    return window > 0 ? std::max(start, i - window + 1) : start;
  }
  // Keys end here for query i of document t.
  int64_t KeysEnd(int64_t t, int64_t i) const {
    const int64_t start = Offsets()[t];
    return attended.empty() ? i + 1 : std::min(i + 1, start + attended[t]);
  }
  std::vector<int32_t> Offsets() const {
    std::vector<int32_t> offsets{0};
    for (int32_t length : lengths) offsets.push_back(offsets.back() + length);
    return offsets;
  }
  int64_t Tokens() const { return Offsets().back(); }
  int64_t Documents() const { return static_cast<int64_t>(lengths.size()); }
};

namespace twin {

struct Attention {
  std::vector<double> out, lse, dq, dk, dv;
};

// Forward and, where dout is not empty, backward.
inline Attention Attend(const AttentionShape& s, const std::vector<double>& q, const std::vector<double>& k,
                        const std::vector<double>& v, double scale, const std::vector<double>& dout = {}) {
  const int64_t n = s.Tokens(), H = s.H, G = s.G, d = s.d;
  const std::vector<int32_t> offsets = s.Offsets();
  Attention a{std::vector<double>(n * H * d), std::vector<double>(n * H), std::vector<double>(n * H * d),
              std::vector<double>(n * G * d), std::vector<double>(n * G * d)};
  for (int64_t t = 0; t < s.Documents(); ++t) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
        const int64_t row = (i * H + h) * d, begin = s.KeysBegin(t, i), end = s.KeysEnd(t, i);
        std::vector<double> p;
        for (int64_t j = begin; j < end; ++j) {
          const int64_t key = (j * G + h / (H / G)) * d;
          double score = 0;
          for (int64_t c = 0; c < d; ++c) score += q[row + c] * k[key + c];
          p.push_back(score * scale);
        }
        const double maximum = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double x : p) sum += std::exp(x - maximum);
        a.lse[i * H + h] = maximum + std::log(sum);
        for (double& x : p) x = std::exp(x - a.lse[i * H + h]);
        for (int64_t j = begin; j < end; ++j) {
          const int64_t key = (j * G + h / (H / G)) * d;
          for (int64_t c = 0; c < d; ++c) a.out[row + c] += p[j - begin] * v[key + c];
        }
        if (dout.empty()) continue;
        double delta = 0;
        for (int64_t c = 0; c < d; ++c) delta += a.out[row + c] * dout[row + c];
        for (int64_t j = begin; j < end; ++j) {
          const int64_t key = (j * G + h / (H / G)) * d;
          double dp = 0;
          for (int64_t c = 0; c < d; ++c) dp += dout[row + c] * v[key + c];
          const double ds = p[j - begin] * (dp - delta) * scale;
          for (int64_t c = 0; c < d; ++c) {
            a.dq[row + c] += ds * k[key + c];
            a.dk[key + c] += ds * q[row + c];
            a.dv[key + c] += p[j - begin] * dout[row + c];
          }
        }
      }
    }
  }
  return a;
}

// Log-probabilities of one row.
inline std::vector<double> LogSoftmax(const std::vector<double>& z, double temperature = 1) {
  double maximum = -kInfinity, sum = 0;
  for (double x : z) maximum = std::max(maximum, x / temperature);
  for (double x : z) sum += std::exp(x / temperature - maximum);
  std::vector<double> result;
  for (double x : z) result.push_back(x / temperature - maximum - std::log(sum));
  return result;
}

inline double Entropy(const std::vector<double>& logprobs) {
  double entropy = 0;
  for (double x : logprobs) {
    if (x > -kInfinity) entropy -= std::exp(x) * x;
  }
  return entropy;
}

}  // namespace twin
}  // namespace selfedit::cpu
