#include "select.h"

#include <algorithm>
#include <functional>

namespace selfedit::cpu {
namespace {

template <typename T>
bool Before(const Candidate<T>& a, const Candidate<T>& b) {
  return a.z > b.z || (a.z == b.z && a.id < b.id);
}

constexpr int64_t kSorted = 512;  // few enough to sort outright
constexpr int kBuckets = 256;

}  // namespace

template <typename T>
Candidate<T> KthCandidate(Candidate<T>* candidates, int64_t count, int64_t k) {
  std::nth_element(candidates, candidates + (k - 1), candidates + count, Before<T>);
  return candidates[k - 1];
}

template <typename T>
T KthLargest(T* values, int64_t count, int64_t k) {
  std::nth_element(values, values + (k - 1), values + count, std::greater<T>());
  return values[k - 1];
}

template <typename T>
Candidate<T> NucleusEnd(Candidate<T>* candidates, int64_t count, double mass) {
  // Tokens without mass add nothing, and -inf among them would have no bucket.
  count =
      std::partition(candidates, candidates + count, [](const auto& c) { return c.mass > 0; }) - candidates;
  double sum = 0;
  if (count > kSorted) {
    // Whole buckets of z from the top while they do not suffice; only the bucket that does needs an order.
    const auto [low, high] = std::minmax_element(candidates, candidates + count,
                                                 [](const auto& a, const auto& b) { return a.z < b.z; });
    const T top = high->z, range = top - low->z;
    if (range > 0) {
      const auto bucket = [&](const Candidate<T>& c) {
        return std::min(kBuckets - 1, static_cast<int>((top - c.z) / range * kBuckets));
      };
      double masses[kBuckets] = {};
      for (int64_t i = 0; i < count; ++i) masses[bucket(candidates[i])] += candidates[i].mass;
      int crossing = 0;
      while (crossing < kBuckets - 1 && sum + masses[crossing] < mass) sum += masses[crossing++];
      // The buckets before stay in front: when rounding leaves this one empty, the last of them is the end.
      const auto middle = std::partition(candidates, candidates + count,
                                         [&](const Candidate<T>& c) { return bucket(c) < crossing; });
      const auto end = std::partition(middle, candidates + count,
                                      [&](const Candidate<T>& c) { return bucket(c) == crossing; });
      if (middle == end) return *std::max_element(candidates, middle, Before<T>);
      candidates = middle;
      count = end - middle;
    }
  }
  std::sort(candidates, candidates + count, Before<T>);
  int64_t last = 0;
  for (sum += candidates[0].mass; sum < mass && last + 1 < count;) sum += candidates[++last].mass;
  return candidates[last];
}

template Candidate<float> KthCandidate(Candidate<float>*, int64_t, int64_t);
template Candidate<double> KthCandidate(Candidate<double>*, int64_t, int64_t);
template Candidate<float> NucleusEnd(Candidate<float>*, int64_t, double);
template Candidate<double> NucleusEnd(Candidate<double>*, int64_t, double);
template float KthLargest(float*, int64_t, int64_t);
template double KthLargest(double*, int64_t, int64_t);

}  // namespace selfedit::cpu
