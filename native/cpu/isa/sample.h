// One token a row by Gumbel-max, with top-k and top-p as a cut: the last kept (logit, id).
#pragma once
#include "../scratch.h"
#include "../select.h"
#include "random.h"
#include "softmax.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

template <typename T>
struct SampleRow {
  const T* row;
  int64_t V;
  T inverse;
  RowStats<T> stats;
  const T* maxima;           // of every kGroup scaled logits
  Candidate<T>* candidates;  // room for V
  T* values;                 // room for one a group
  int64_t Groups() const { return (V + kGroup - 1) / kGroup; }
};

// Tokens with z >= floor, in order of their ids.
template <typename T>
int64_t Gather(const SampleRow<T>& s, T floor) {
  constexpr int W = kWidth<T>;
  int64_t count = 0;
  for (int64_t g = 0; g < s.Groups(); ++g) {
    if (!(s.maxima[g] >= floor)) continue;
    const int64_t start = g * kGroup, end = Min(s.V, start + kGroup);
    T mass[kGroup];
    for (int64_t j = start; j < end; j += W) {
      Store(mass + (j - start), Exp(LoadUpTo(s.row + j, end - j) * s.inverse - s.stats.maximum));
    }
    for (int64_t j = start; j < end; ++j) {
      const T z = s.row[j] * s.inverse;
      if (z >= floor) s.candidates[count++] = {z, mass[j - start], static_cast<int32_t>(j)};
    }
  }
  return count;
}

// A logit such that at least k are as large: the k-th largest maximum of a group.
template <typename T>
T FloorOfTopK(const SampleRow<T>& s, int64_t k) {
  if (k > s.Groups()) return -__builtin_inf();
  for (int64_t g = 0; g < s.Groups(); ++g) s.values[g] = s.maxima[g];
  const T floor = KthLargest(s.values, s.Groups(), k);
  return floor > kNone<T> ? floor : static_cast<T>(-__builtin_inf());
}

// A logit such that those as large hold at least `mass`: the nearest of a few distances below the maximum.
template <typename T>
T FloorOfNucleus(const SampleRow<T>& s, double mass) {
  constexpr int W = kWidth<T>;
  constexpr int kDistances = 4;
  constexpr T distance[kDistances] = {2, 4, 8, 16};
  WideSum<T> sums[kDistances];
  for (int64_t j = 0; j < s.V; j += W) {
    const int64_t left = s.V - j;
    const Vec<T> z = LoadUpTo(s.row + j, left) * s.inverse - s.stats.maximum;
    Vec<T> e = Exp(z);
    if (left < W) e = Iota<T>() < static_cast<typename Simd<T>::Int>(left) ? e : Vec<T>{};
    for (int i = 0; i < kDistances; ++i) sums[i].Add(z >= -distance[i] ? e : Vec<T>{});
  }
  for (int i = 0; i < kDistances; ++i) {
    // The margin covers the rounding of the sums: the set must never be short of tokens.
    if (sums[i].Total() > mass * (1 + 1e-6)) return s.stats.maximum - distance[i] * T(1.0001);
  }
  return s.stats.maximum - (sizeof(T) == 4 ? 88 : 709);  // Exp is 0 below
}

template <typename T>
Candidate<T> Cut(const SampleRow<T>& s, int64_t top_k, float top_p) {
  const bool by_count = top_k > 0 && top_k < s.V, by_mass = top_p < 1;
  if (by_count) {
    const int64_t count = Gather(s, FloorOfTopK(s, top_k));
    const Candidate<T> last = KthCandidate(s.candidates, count, top_k);
    if (!by_mass) return last;
    double total = 0;
    for (int64_t i = 0; i < top_k; ++i) total += s.candidates[i].mass;
    return NucleusEnd(s.candidates, top_k, top_p * total);
  }
  if (by_mass) {
    const double mass = top_p * s.stats.sum;
    return NucleusEnd(s.candidates, Gather(s, FloorOfNucleus(s, mass)), mass);
  }
  return {static_cast<T>(-__builtin_inf()), 0, static_cast<int32_t>(s.V)};
}

// A group of tokens can be passed over when even its largest logit m with its largest noise stays below the
// best so far: noise is at most -log(v) because -log(1 - v) >= v, so v >= exp(m - best) for every token
// suffices. Most groups go this way, and with them their logarithms.
template <typename T>
int32_t GumbelMax(const SampleRow<T>& s, Candidate<T> cut, uint64_t key, uint64_t position) {
  constexpr int W = kWidth<T>;
  using Int = typename Simd<T>::Int;
  constexpr float kMargin = 1.001f;  // covers the rounding of the noise by far
  Vec<T> best = Splat(static_cast<T>(-__builtin_inf()));
  IntVec<T> token = IntVec<T>{} - 1;
  T highest = best[0];
  for (int64_t g = 0; g < s.Groups(); ++g) {
    if (!(s.maxima[g] >= cut.z)) continue;
    const int64_t start = g * kGroup, end = Min(s.V, start + kGroup);
    float v[kGroup];
    const float smallest = Uniforms(key, position, start / 4, kGroup, v);
    const T lead = highest - s.maxima[g];
    if (lead > 0 && smallest > kMargin * ScalarExp(static_cast<float>(-lead))) continue;
    T noise[kGroup];
    for (int64_t j = 0; j < kGroup; j += kWidth<float>) {
      const Vec<float> x = Gumbel(Load(v + j));
      for (int t = 0; t < kWidth<float>; ++t) noise[j + t] = x[t];
    }
    for (int64_t j = start; j < end; j += W) {
      const Vec<T> z = LoadUpTo(s.row + j, end - j) * s.inverse;
      const IntVec<T> id = Iota<T>() + static_cast<Int>(j);
      const Vec<T> x = z + Load(noise + (j - start));
      const IntVec<T> kept = ((z > cut.z) | ((z == cut.z) & (id <= static_cast<Int>(cut.id)))) &
                             (id < static_cast<Int>(end)) & (x > best);
      best = kept ? x : best;
      token = kept ? id : token;
    }
    highest = ReduceMax<T>(best);
  }
  int lane = 0;
  for (int t = 1; t < W; ++t) {
    if (best[t] > best[lane] || (best[t] == best[lane] && token[t] < token[lane])) lane = t;
  }
  return static_cast<int32_t>(token[lane]);
}

// The first token that holds the row's maximum.
template <typename T>
int32_t FirstMaximum(const SampleRow<T>& s) {
  int64_t g = 0;
  while (g + 1 < s.Groups() && s.maxima[g] != s.stats.maximum) ++g;
  int64_t j = g * kGroup;
  while (j + 1 < s.V && s.row[j] * s.inverse != s.stats.maximum) ++j;
  return static_cast<int32_t>(j);
}

template <typename T>
void SampleRows(const T* logits, int64_t rows, int64_t V, const float* temperature, const float* top_p,
                const int32_t* top_k, const uint64_t* key, const int64_t* position, int32_t* token,
                float* logprob) {
#pragma omp parallel for schedule(dynamic, 1) if (rows > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const bool greedy = temperature[r] == 0, cut = !greedy && (top_k[r] > 0 || top_p[r] < 1);
    const int64_t groups = (V + kGroup - 1) / kGroup, maxima = RoundUp(groups * sizeof(T), 64);
    char* memory = static_cast<char*>(Scratch(2 * maxima + (cut ? V * sizeof(Candidate<T>) : 0)));
    SampleRow<T> s{logits + r * V, V,      greedy ? T(1) : 1 / static_cast<T>(temperature[r]), {}, nullptr,
                   nullptr,        nullptr};
    T* largest = reinterpret_cast<T*>(memory);
    s.maxima = largest;
    s.values = reinterpret_cast<T*>(memory + maxima);
    s.candidates = reinterpret_cast<Candidate<T>*>(memory + 2 * maxima);
    s.stats = Stats<T, false>(s.row, V, s.inverse, largest);
    token[r] = -1;
    logprob[r] = __builtin_nanf("");
    if (!(s.stats.sum > 0)) continue;  // NaN or infinity among the logits, or nothing but -inf
    token[r] = greedy ? FirstMaximum(s)
                      : GumbelMax(s, Cut(s, top_k[r], top_p[r]), key[r], static_cast<uint64_t>(position[r]));
    const T z = s.row[token[r]] * s.inverse;
    logprob[r] = static_cast<float>(z - s.stats.Lse());
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
