// Attention of one query token a row over cached keys and values. Every key and value is read once a kv head,
// for all query heads of its group: the cache's bandwidth is what bounds it.
#pragma once
#include <type_traits>

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

// out[r] += p[r] . values, for a group of heads; p from column `first` on.
template <typename T>
void AddValues(const T* const* p, int64_t first, int64_t heads, const T* values, int64_t stride,
               int64_t count, int64_t d, T* copy, T* const* out) {
  constexpr int W = kWidth<T>;
  const int64_t padded = RoundUp(d, W);
  if (d % W != 0) {
    for (int64_t j = 0; j < count; ++j) CopyPadded(values + j * stride, d, copy + j * padded);
    values = copy;
    stride = padded;
  }
  for (int64_t r = 0; r < heads; r += kTileRows) {
    const ByRows<T> a{p + r, first};
    const auto product = [&](auto rows) {
      Product<T, rows>(a, count, values, stride, out + r, padded / W, true);
    };
    switch (Min(kTileRows, heads - r)) {
      case 1:
        product(std::integral_constant<int, 1>());
        break;
      case 2:
        product(std::integral_constant<int, 2>());
        break;
      case 3:
        product(std::integral_constant<int, 3>());
        break;
      case 4:
        product(std::integral_constant<int, 4>());
        break;
      case 5:
        product(std::integral_constant<int, 5>());
        break;
      default:
        product(std::integral_constant<int, 6>());
    }
  }
}

// Keys (or values) of one row: those of the shared prefix, then its own.
template <typename T>
struct Cached {
  const T* part[2];
  int64_t length[2];
};

constexpr int64_t kSplitRows = 8;
constexpr int64_t kRun = 32;  // keys that stay in the nearest cache while all heads pass over them

// Slice i of n of the next run: spread over the work on this one, so that the requests do not queue up.
template <typename T>
SELFEDIT_INLINE void PrefetchNext(const T* run, int64_t left, int64_t stride, int64_t width, int64_t i,
                                  int64_t n) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t last = Min(kRun + kRun * (i + 1) / n, left);
  for (int64_t j = kRun + kRun * i / n; j < last; ++j) {
    for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(run + j * stride + c);
  }
}

// One row and some kv heads; q, out and the cache point at the first of them. Memory is read in the order it
// lies in.
template <typename T>
void DecodeRow(const T* q, const Cached<T>& keys, const Cached<T>& values, int64_t kv_heads, int64_t group,
               int64_t stride, int64_t d, T scale, T* out) {
  constexpr int W = kWidth<T>;
  const int64_t padded = RoundUp(d, W), total = keys.length[0] + keys.length[1],
                width = RoundUp(total, W) + W;
  const int64_t heads = kv_heads * group;
  Arena arena{
      static_cast<char*>(Scratch(Arena::Bytes<T>(heads * width) + Arena::Bytes<T>(heads * padded) * 2 +
                                 Arena::Bytes<T>(kRun * padded) + Arena::Bytes<T*>(heads) * 2))};
  T* scores = arena.Take<T>(heads * width);
  T* query = arena.Take<T>(heads * padded);
  T* sums = arena.Take<T>(heads * padded);
  T* copy = arena.Take<T>(kRun * padded);
  const T** score_row = arena.Take<const T*>(heads);
  T** sum_row = arena.Take<T*>(heads);
  for (int64_t h = 0; h < heads; ++h) {
    CopyPadded(q + h * d, d, query + h * padded);
    for (int64_t c = 0; c < padded; c += W) Store(sums + h * padded + c, Vec<T>{});
    score_row[h] = scores + h * width;
    sum_row[h] = sums + h * padded;
  }
  for (int part = 0; part < 2; ++part) {
    const int64_t first = part == 0 ? 0 : keys.length[0];
    for (int64_t j = 0; j < keys.length[part]; j += kRun) {
      const T* run = keys.part[part] + j * stride;
      for (int64_t h = 0; h < heads; ++h) {
        PrefetchNext(run, keys.length[part] - j, stride, kv_heads * d, h, heads);
        Scores(query + h * padded, run + h / group * d, stride, Min(kRun, keys.length[part] - j), d,
               scores + h * width + first + j);
      }
    }
  }
  const int64_t vectors = (total + W - 1) / W;
  for (int64_t h = 0; h < heads; ++h) {
    T maximum = kLowest<T>;
    const T inverse = 1 / Exponentials(scores + h * width, 0, total, vectors, scale, &maximum);
    for (int64_t b = 0; b < vectors; ++b) {
      Store(scores + h * width + b * W, Load(scores + h * width + b * W) * inverse);
    }
  }
  for (int part = 0; part < 2; ++part) {
    const int64_t first = part == 0 ? 0 : values.length[0];
    for (int64_t j = 0; j < values.length[part]; j += kRun) {
      const T* run = values.part[part] + j * stride;
      for (int64_t g = 0; g < kv_heads; ++g) {
        PrefetchNext(run, values.length[part] - j, stride, kv_heads * d, g, kv_heads);
        AddValues(score_row + g * group, first + j, group, run + g * d, stride,
                  Min(kRun, values.length[part] - j), d, copy, sum_row + g * group);
      }
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t c = 0; c < d; c += W) StoreUpTo<T>(out + h * d + c, Load(sums + h * padded + c), d - c);
  }
}

template <typename T>
void AttentionDecode(const T* q, const T* const* prefix_k, const T* const* prefix_v,
                     const int32_t* prefix_length, const T* const* own_k, const T* const* own_v,
                     const int32_t* own_length, int64_t rows, int64_t H, int64_t G, int64_t d, T scale,
                     T* out) {
  // Few rows are split by kv head, to give every thread some; the arithmetic of a head is the same either
  // way.
  const int64_t pieces = rows < kSplitRows ? G : 1, kv_heads = G / pieces, group = H / G;
#pragma omp parallel for schedule(dynamic, 1) if (rows * pieces > 1)
  for (int64_t i = 0; i < rows * pieces; ++i) {
    const int64_t b = i / pieces, g = i % pieces, at = (b * H + g * group) * d, head = g * d;
    const int64_t prefix = prefix_length[b], own = own_length[b];
    DecodeRow<T>(q + at,
                 {{prefix ? prefix_k[b] + head : nullptr, own ? own_k[b] + head : nullptr}, {prefix, own}},
                 {{prefix ? prefix_v[b] + head : nullptr, own ? own_v[b] + head : nullptr}, {prefix, own}},
                 kv_heads, group, G * d, d, scale, out + at);
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
