// Choosing the tokens that top-k and top-p keep. Compiled once, for the baseline instruction set.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

// A token with its scaled logit and exp(z - row maximum). Larger z comes first, then lower id.
template <typename T>
struct Candidate {
  T z;
  T mass;
  int32_t id;
};

// The k-th of `count` candidates (1 <= k <= count). Reorders: the first k are then the k best, in no order.
template <typename T>
Candidate<T> KthCandidate(Candidate<T>* candidates, int64_t count, int64_t k);

// The last of the smallest number of best candidates whose masses sum to at least `mass`; of all where none
// suffices.
template <typename T>
Candidate<T> NucleusEnd(Candidate<T>* candidates, int64_t count, double mass);

// The k-th largest of `count` values (1 <= k <= count). Reorders them.
template <typename T>
T KthLargest(T* values, int64_t count, int64_t k);

}  // namespace selfedit::cpu
