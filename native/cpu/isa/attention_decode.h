// Attention of one query token a row over cached keys and values. Every key and value is read once a kv head,
// for all query heads of its group: the cache's bandwidth is what bounds it.
#pragma once
#include "attention.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// Joins vectors i and i | s: lane t of the result holds the sum of lane pairs (t, t ^ s) of vector i | (t &
// s).
template <typename T, int s, size_t... t>
SELFEDIT_INLINE Vec<T> Join(Vec<T> a, Vec<T> b, std::index_sequence<t...>) {
  constexpr int W = kWidth<T>;
  return __builtin_shufflevector(a, b, ((t & s) ? W + t : t)...) +
         __builtin_shufflevector(a, b, ((t & s) ? W + (t ^ s) : (t ^ s))...);
}

// Lane t of the result is the sum of the lanes of r[t], added in the same order for every t.
template <typename T, int s = 1>
SELFEDIT_INLINE Vec<T> SumEach(Vec<T>* r) {
  if constexpr (s == kWidth<T>) {
    return r[0];
  } else {
    SELFEDIT_UNROLL
    for (int i = 0; i < kWidth<T>; i += 2 * s) {
      r[i] = Join<T, s>(r[i], r[i + s], std::make_index_sequence<kWidth<T>>());
    }
    return SumEach<T, 2 * s>(r);
  }
}

// scores[j] = q . keys[j] for j < count; writes up to the next multiple of the width. q is padded with zeros.
template <typename T>
void Scores(const T* q, const T* keys, int64_t stride, int64_t count, int64_t d, T* scores) {
  constexpr int W = kWidth<T>;
  for (int64_t j = 0; j < count; j += W) {
    Vec<T> sum[W];
    SELFEDIT_UNROLL
    for (int t = 0; t < W; ++t) sum[t] = Vec<T>{};
    if (j + W <= count && d % W == 0) {
      for (int64_t c = 0; c < d; c += W) {
        const Vec<T> x = Load(q + c);
        SELFEDIT_UNROLL
        for (int t = 0; t < W; ++t) sum[t] += x * Load(keys + (j + t) * stride + c);
      }
    } else {
      for (int64_t c = 0; c < d; c += W) {
        const Vec<T> x = Load(q + c);
        SELFEDIT_UNROLL
        for (int t = 0; t < W; ++t) {
          if (j + t < count) sum[t] += x * LoadUpTo(keys + (j + t) * stride + c, d - c);
        }
      }
    }
    Store(scores + j, SumEach<T>(sum));
  }
}

// out[r] (+)= p[r] . values, for the group's heads.
template <typename T>
void WeightedValues(const T* const* p, int64_t first, int64_t heads, const T* values, int64_t stride,
                    int64_t count, int64_t d, T* copy, T* const* out, bool accumulate) {
  constexpr int W = kWidth<T>;
  const int64_t padded = RoundUp(d, W);
  if (d % W != 0) {
    for (int64_t j = 0; j < count; ++j) CopyPadded(values + j * stride, d, copy + j * padded);
    values = copy;
    stride = padded;
  }
  for (int64_t r = 0; r < heads; r += kTileRows) {
    const ByRows<T> a{p + r, first};
    switch (Min(kTileRows, heads - r)) {
      case 1:
        Product<T, 1>(a, count, values, stride, out + r, padded / W, accumulate);
        break;
      case 2:
        Product<T, 2>(a, count, values, stride, out + r, padded / W, accumulate);
        break;
      case 3:
        Product<T, 3>(a, count, values, stride, out + r, padded / W, accumulate);
        break;
      case 4:
        Product<T, 4>(a, count, values, stride, out + r, padded / W, accumulate);
        break;
      case 5:
        Product<T, 5>(a, count, values, stride, out + r, padded / W, accumulate);
        break;
      default:
        Product<T, 6>(a, count, values, stride, out + r, padded / W, accumulate);
    }
  }
}

// One row and kv head; the pointers are those of the group's first head.
template <typename T>
void DecodeHead(const T* q, const T* prefix_k, const T* prefix_v, int64_t prefix, const T* own_k,
                const T* own_v, int64_t own, int64_t group, int64_t stride, int64_t d, T scale, T* out) {
  constexpr int W = kWidth<T>;
  const int64_t padded = RoundUp(d, W), total = prefix + own, width = RoundUp(total, W) + W;
  const int64_t copied = d % W != 0 ? Max(prefix, own) * padded : 0;
  Arena arena{
      static_cast<char*>(Scratch(Arena::Bytes<T>(group * width) + Arena::Bytes<T>(group * padded) * 2 +
                                 Arena::Bytes<T>(copied) + Arena::Bytes<T*>(group) * 2))};
  T* scores = arena.Take<T>(group * width);
  T* query = arena.Take<T>(group * padded);
  T* sums = arena.Take<T>(group * padded);
  T* copy = arena.Take<T>(copied);
  const T** score_row = arena.Take<const T*>(group);
  T** sum_row = arena.Take<T*>(group);
  for (int64_t r = 0; r < group; ++r) {
    CopyPadded(q + r * d, d, query + r * padded);
    score_row[r] = scores + r * width;
    sum_row[r] = sums + r * padded;
  }
  // Keys in runs that stay in the nearest cache while every head of the group passes over them.
  constexpr int64_t kRun = 32;
  for (int64_t j = 0; j < prefix; j += kRun) {
    for (int64_t r = 0; r < group; ++r) {
      Scores(query + r * padded, prefix_k + j * stride, stride, Min(kRun, prefix - j), d,
             scores + r * width + j);
    }
  }
  for (int64_t j = 0; j < own; j += kRun) {
    for (int64_t r = 0; r < group; ++r) {
      Scores(query + r * padded, own_k + j * stride, stride, Min(kRun, own - j), d,
             scores + r * width + prefix + j);
    }
  }
  const int64_t vectors = (total + W - 1) / W;
  for (int64_t r = 0; r < group; ++r) {
    T maximum = kLowest<T>;
    const T sum = Exponentials(scores + r * width, total, vectors, scale, &maximum);
    const T inverse = 1 / sum;
    for (int64_t b = 0; b < vectors; ++b) {
      Store(scores + r * width + b * W, Load(scores + r * width + b * W) * inverse);
    }
  }
  WeightedValues(score_row, 0, group, prefix_v, stride, prefix, d, copy, sum_row, false);
  WeightedValues(score_row, prefix, group, own_v, stride, own, d, copy, sum_row, true);
  for (int64_t r = 0; r < group; ++r) {
    for (int64_t c = 0; c < d; c += W) StoreUpTo<T>(out + r * d + c, Load(sums + r * padded + c), d - c);
  }
}

template <typename T>
void AttentionDecode(const T* q, const T* const* prefix_k, const T* const* prefix_v,
                     const int32_t* prefix_length, const T* const* own_k, const T* const* own_v,
                     const int32_t* own_length, int64_t rows, int64_t H, int64_t G, int64_t d, T scale,
                     T* out) {
  const int64_t group = H / G;
#pragma omp parallel for schedule(dynamic, 1) if (rows * G > 1)
  for (int64_t i = 0; i < rows * G; ++i) {
    const int64_t b = i / G, g = i % G, at = (b * H + g * group) * d, head = g * d;
    const int64_t prefix = prefix_length[b], own = own_length[b];
    DecodeHead(q + at, prefix ? prefix_k[b] + head : nullptr, prefix ? prefix_v[b] + head : nullptr, prefix,
               own ? own_k[b] + head : nullptr, own ? own_v[b] + head : nullptr, own, group, G * d, d, scale,
               out + at);
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
