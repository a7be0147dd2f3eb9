// Causal attention over documents: what the forward and backward passes share, and the forward pass.
//
// Rows are the query heads of one kv head, token by token: row r of a document is token r / (H / G), head
// g (H / G) + r % (H / G). Keys are taken kKeys at a time, so that their packed copies stay in the caches.
#pragma once
#include "../kernels.h"
#include "../scratch.h"
#include "math.h"
#include "tile.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kKeys = 128;
constexpr int64_t kQueryTokens = 64;  // tokens of one work item of the forward pass

// Hands out 64-byte aligned pieces of one block.
struct Arena {
  char* next;
  template <typename T>
  T* Take(int64_t count) {
    T* p = reinterpret_cast<T*>(next);
    next += RoundUp(count * sizeof(T), 64);
    return p;
  }
  template <typename T>
  static int64_t Bytes(int64_t count) {
    return RoundUp(count * sizeof(T), 64);
  }
};

// The lanes of vector b that lie in [skip, count); `kSkips` is false where skip is 0.
template <typename T, bool kSkips>
SELFEDIT_INLINE IntVec<T> LanesWithin(IntVec<T> iota, int64_t b, int64_t skip, int64_t count) {
  using Int = typename Simd<T>::Int;
  const IntVec<T> below = iota < static_cast<Int>(count - b * kWidth<T>);
  if constexpr (!kSkips) return below;
  return below & (iota >= static_cast<Int>(skip - b * kWidth<T>));
}

// Turns a row of scores, of which those in [skip, count) are real, into exp(scale * score - maximum) with
// zeros around; *maximum is raised to that of the row first. Returns the sum.
template <typename T, bool kSkips>
SELFEDIT_INLINE T ExponentialsOf(T* s, int64_t skip, int64_t count, int64_t vectors, T scale, T* maximum) {
  constexpr int W = kWidth<T>;
  const IntVec<T> iota = Iota<T>();
  Vec<T> top = Splat(*maximum);
  for (int64_t b = 0; b < vectors; ++b) {
    const Vec<T> x = Load(s + b * W) * scale;
    top = MaxOf<T>(LanesWithin<T, kSkips>(iota, b, skip, count) ? x : top, top);
  }
  const T m = ReduceMax<T>(top);
  Vec<T> sum{};
  for (int64_t b = 0; b < vectors; ++b) {
    const Vec<T> e = Exp(Load(s + b * W) * scale - m);
    const Vec<T> p = LanesWithin<T, kSkips>(iota, b, skip, count) ? e : Vec<T>{};
    Store(s + b * W, p);
    sum += p;
  }
  *maximum = m;
  return ReduceSum<T>(sum);
}
template <typename T>
SELFEDIT_INLINE T Exponentials(T* s, int64_t skip, int64_t count, int64_t vectors, T scale, T* maximum) {
  return skip > 0 ? ExponentialsOf<T, true>(s, skip, count, vectors, scale, maximum)
                  : ExponentialsOf<T, false>(s, 0, count, vectors, scale, maximum);
}

// The first key that the query at `token` sees.
SELFEDIT_INLINE int64_t FirstKey(int64_t token, int64_t window) {
  return window > 0 ? Max(0, token - window + 1) : 0;
}

template <typename T>
constexpr T kLowest = sizeof(T) == 4 ? T(-3e38) : T(-1e308);

// Tokens [first, last) of one document and one kv head over the document's first `attended` keys; pointers
// are those of the document's first token and head.
template <typename T>
void ForwardBlock(const T* q, const T* k, const T* v, int64_t first, int64_t last, int64_t attended,
                  int64_t H, int64_t G, int64_t d, T scale, int64_t window, T* out, T* lse) {
  constexpr int W = kWidth<T>;
  constexpr int M = kTileRows;
  const int64_t group = H / G, rows = (last - first) * group, padded = RoundUp(d, W);
  Arena arena{static_cast<char*>(Scratch(Arena::Bytes<T>(padded * kKeys) * 2 + Arena::Bytes<T>(M * kKeys) +
                                         Arena::Bytes<T>((rows + M) * padded) + Arena::Bytes<T>(rows) * 2))};
  T* kt = arena.Take<T>(padded * kKeys);
  T* copy = arena.Take<T>(padded * kKeys);
  T* scores = arena.Take<T>(M * kKeys);
  T* sums = arena.Take<T>((rows + M) * padded);
  T* maximum = arena.Take<T>(rows);
  T* total = arena.Take<T>(rows);
  T* score_row[M];
  for (int m = 0; m < M; ++m) score_row[m] = scores + m * kKeys;
  for (int64_t r = 0; r < rows; ++r) maximum[r] = kLowest<T>, total[r] = 0;

  const int64_t end = Min(last, attended);
  for (int64_t j = FirstKey(first, window) / kKeys * kKeys; j < end; j += kKeys) {
    const int64_t keys = Min(kKeys, end - j);
    PackTransposed(k + j * G * d, G * d, keys, d, kt, kKeys);
    const T* values = v + j * G * d;
    int64_t stride = G * d;
    if (d % W != 0) {
      for (int64_t t = 0; t < keys; ++t) CopyPadded(values + t * stride, d, copy + t * padded);
      values = copy;
      stride = padded;
    }
    for (int64_t r = 0; r < rows; r += M) {
      const int64_t used = Min(M, rows - r);
      const int64_t reach = Min(keys, first + (r + used - 1) / group - j + 1);
      // The tile's rows see keys from those of its first row on.
      const int64_t low = FirstKey(first + r / group, window);
      if (reach <= 0 || low >= j + keys) continue;
      const bool fresh = j == low / kKeys * kKeys;
      const int64_t vectors = (reach + W - 1) / W;
      const T* query[M];
      T* sum_row[M];
      for (int m = 0; m < M; ++m) {
        const int64_t row = Min(r + m, rows - 1);  // rows behind the end repeat the last one
        query[m] = q + (first + row / group) * H * d + row % group * d;
        sum_row[m] = sums + (r + m) * padded;
      }
      Product<T, M>(ByRows<T>{query, 0}, d, kt, kKeys, score_row, vectors, false);
      for (int m = 0; m < used; ++m) {
        const int64_t row = r + m;
        const T before = maximum[row];
        const int64_t token = first + row / group;
        const T sum = Exponentials(score_row[m], Max(0, FirstKey(token, window) - j),
                                   Min(keys, token - j + 1), vectors, scale, &maximum[row]);
        if (fresh) {
          total[row] = sum;
          continue;
        }
        const T shrink = ScalarExp(before - maximum[row]);
        total[row] = total[row] * shrink + sum;
        if (shrink != 1) {
          for (int64_t c = 0; c < padded; c += W) Store(sum_row[m] + c, Load(sum_row[m] + c) * shrink);
        }
      }
      Product<T, M>(ByRows<T>{score_row, 0}, reach, values, stride, sum_row, padded / W, !fresh);
    }
  }

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = first + r / group, head = r % group;
    T* to = out + token * H * d + head * d;
    const T inverse = 1 / total[r];
    for (int64_t c = 0; c < d; c += W) StoreUpTo<T>(to + c, Load(sums + r * padded + c) * inverse, d - c);
    if (lse) lse[token * H + head] = maximum[r] + ScalarLog(total[r]);
  }
}

// Work items of a call: the documents cut into pieces of at most `tokens`; item i is found by counting.
struct Item {
  int64_t document, first, last;
};

SELFEDIT_INLINE int64_t CountItems(const int32_t* offsets, int64_t documents, int64_t tokens) {
  int64_t count = 0;
  for (int64_t t = 0; t < documents; ++t) count += (offsets[t + 1] - offsets[t] + tokens - 1) / tokens;
  return count;
}

template <typename T>
void AttentionForward(const T* q, const T* k, const T* v, const int32_t* offsets, const int32_t* attended,
                      int64_t documents, int64_t H, int64_t G, int64_t d, T scale, int64_t window, T* out,
                      T* lse) {
  const int64_t pieces = CountItems(offsets, documents, kQueryTokens);
  if (pieces == 0) return;
  Item* items = static_cast<Item*>(__builtin_malloc(pieces * sizeof(Item)));
  int64_t count = 0;
  // The last piece of a document attends to most keys: it goes first.
  for (int64_t t = 0; t < documents; ++t) {
    const int64_t length = offsets[t + 1] - offsets[t];
    for (int64_t first = (length - 1) / kQueryTokens * kQueryTokens; first >= 0 && length > 0;
         first -= kQueryTokens) {
      items[count++] = {t, first, Min(length, first + kQueryTokens)};
    }
  }
#pragma omp parallel for schedule(dynamic, 1) if (pieces * G > 1)
  for (int64_t i = 0; i < pieces * G; ++i) {
    const Item item = items[i / G];
    const int64_t g = i % G, start = offsets[item.document];
    ForwardBlock(q + (start * H + g * (H / G)) * d, k + (start * G + g) * d, v + (start * G + g) * d,
                 item.first, item.last, attended ? attended[item.document] : item.last, H, G, d, scale,
                 window, out + (start * H + g * (H / G)) * d, lse ? lse + start * H + g * (H / G) : nullptr);
  }
  __builtin_free(items);
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
