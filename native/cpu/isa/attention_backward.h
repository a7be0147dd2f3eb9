// Gradients of causal attention. One work item is a document and a kv head: the gradients of its keys and
// values sum over the queries, and over the heads of the group, in one fixed order.
#pragma once
#include "attention.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

constexpr int64_t kBlockRows = 48;  // query rows whose probabilities are held at once

template <typename T>
SELFEDIT_INLINE T Dot(const T* a, const T* b, int64_t count) {
  Vec<T> sum{};
  for (int64_t c = 0; c < count; c += kWidth<T>)
    sum += LoadUpTo(a + c, count - c) * LoadUpTo(b + c, count - c);
  return ReduceSum<T>(sum);
}

template <typename T>
struct BackwardSpec {
  const T *q, *k, *v, *out, *lse, *dout;  // of the document's first token and of the kv head's first head
  T *dq, *dk, *dv;
  int64_t length, attended, H, G, d;
  T scale;
  int64_t window;
};

// Rows of scores become probabilities (in p) and rows of dP become scaled score gradients (in ds); zeros
// outside of [skip, count).
template <typename T, bool kSkips>
SELFEDIT_INLINE void ScoreGradientsOf(T* p, T* ds, int64_t skip, int64_t count, int64_t vectors, T scale,
                                      T lse, T delta) {
  constexpr int W = kWidth<T>;
  const IntVec<T> iota = Iota<T>();
  for (int64_t b = 0; b < vectors; ++b) {
    const Vec<T> e = Exp(Load(p + b * W) * scale - lse);
    const IntVec<T> within = LanesWithin<T, kSkips>(iota, b, skip, count);
    const Vec<T> grad = e * (Load(ds + b * W) - delta) * scale;
    Store(p + b * W, within ? e : Vec<T>{});
    Store(ds + b * W, within ? grad : Vec<T>{});
  }
}
template <typename T>
SELFEDIT_INLINE void ScoreGradients(T* p, T* ds, int64_t skip, int64_t count, int64_t vectors, T scale, T lse,
                                    T delta) {
  if (skip > 0) {
    ScoreGradientsOf<T, true>(p, ds, skip, count, vectors, scale, lse, delta);
  } else {
    ScoreGradientsOf<T, false>(p, ds, 0, count, vectors, scale, lse, delta);
  }
}

template <typename T>
void BackwardHead(const BackwardSpec<T>& s) {
  constexpr int W = kWidth<T>;
  constexpr int M = kTileRows;
  const int64_t group = s.H / s.G, rows = s.length * group, padded = RoundUp(s.d, W), d = s.d;
  const int64_t key_rows = RoundUp(kKeys, M);
  Arena arena{static_cast<char*>(
      Scratch(Arena::Bytes<T>(padded * kKeys) * 3 + Arena::Bytes<T>(kBlockRows * kKeys + M) * 2 +
              Arena::Bytes<T>(kBlockRows * padded) * 2 + Arena::Bytes<T>(key_rows * padded) * 2 +
              Arena::Bytes<T>(M * padded) + Arena::Bytes<T>(rows)))};
  T* kt = arena.Take<T>(padded * kKeys);
  T* vt = arena.Take<T>(padded * kKeys);
  T* copy = arena.Take<T>(padded * kKeys);
  T* p = arena.Take<T>(kBlockRows * kKeys + M);
  T* ds = arena.Take<T>(kBlockRows * kKeys + M);
  T* queries = arena.Take<T>(kBlockRows * padded);
  T* douts = arena.Take<T>(kBlockRows * padded);
  T* dk = arena.Take<T>(key_rows * padded);
  T* dv = arena.Take<T>(key_rows * padded);
  T* dq = arena.Take<T>(M * padded);
  T* delta = arena.Take<T>(rows);
  const auto offset = [&](int64_t row) { return row / group * s.H * d + row % group * d; };
  for (int64_t r = 0; r < rows; ++r) delta[r] = Dot(s.out + offset(r), s.dout + offset(r), d);
  // Under a window, the first block of keys that reaches a row differs from row to row.
  if (s.window > 0) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < d; ++c) s.dq[offset(r) + c] = 0;
    }
  }

  const int64_t end = Min(s.length, s.attended);
  for (int64_t j = 0; j < end; j += kKeys) {
    const int64_t keys = Min(kKeys, end - j);
    PackTransposed(s.k + j * s.G * d, s.G * d, keys, d, kt, kKeys);
    PackTransposed(s.v + j * s.G * d, s.G * d, keys, d, vt, kKeys);
    const T* key = s.k + j * s.G * d;
    int64_t stride = s.G * d;
    if (d % W != 0) {
      for (int64_t t = 0; t < keys; ++t) CopyPadded(key + t * stride, d, copy + t * padded);
      key = copy;
      stride = padded;
    }
    for (int64_t c = 0; c < key_rows * padded; c += W) Store(dk + c, Vec<T>{}), Store(dv + c, Vec<T>{});

    const int64_t rows_end = s.window > 0 ? Min(rows, (j + keys - 1 + s.window) * group) : rows;
    for (int64_t start = j * group; start < rows_end; start += kBlockRows) {
      const int64_t block = Min(kBlockRows, rows_end - start);
      const int64_t widest = Min(keys, (start + block - 1) / group - j + 1);
      // The products over the block's rows below read whole tiles of columns.
      const int64_t vectors = Min(kKeys, RoundUp(widest, M) + W - 1) / W;
      for (int64_t r = 0; r < block; ++r) {
        CopyPadded(s.q + offset(start + r), d, queries + r * padded);
        CopyPadded(s.dout + offset(start + r), d, douts + r * padded);
      }
      for (int64_t r = 0; r < block; r += M) {
        const int64_t used = Min(M, block - r);
        const int64_t reach = Min(keys, (start + r + used - 1) / group - j + 1);
        const T *query[M], *dout[M], *ds_row[M];
        T *p_to[M], *ds_to[M], *dq_to[M];
        for (int m = 0; m < M; ++m) {
          const int64_t row = Min(r + m, block - 1);
          query[m] = queries + row * padded;
          dout[m] = douts + row * padded;
          p_to[m] = p + (r + m) * kKeys;
          ds_row[m] = ds_to[m] = ds + (r + m) * kKeys;
          dq_to[m] = dq + m * padded;
        }
        const int64_t reached = (reach + W - 1) / W;
        Product<T, M>(ByRows<T>{query, 0}, d, kt, kKeys, p_to, reached, false);
        Product<T, M>(ByRows<T>{dout, 0}, d, vt, kKeys, ds_to, reached, false);
        for (int m = 0; m < used; ++m) {
          const int64_t row = start + r + m;
          const int64_t token = row / group;
          ScoreGradients(p_to[m], ds_to[m], Max(0, FirstKey(token, s.window) - j), Min(keys, token - j + 1),
                         reached, s.scale, s.lse[row / group * s.H + row % group], delta[row]);
          for (int64_t b = reached; b < vectors; ++b) {
            Store(p_to[m] + b * W, Vec<T>{});
            Store(ds_to[m] + b * W, Vec<T>{});
          }
        }
        Product<T, M>(ByRows<T>{ds_row, 0}, reach, key, stride, dq_to, padded / W, false);
        for (int m = 0; m < used; ++m) {
          T* to = s.dq + offset(start + r + m);
          for (int64_t c = 0; c < d; c += W) {
            const Vec<T> g = Load(dq_to[m] + c);
            StoreUpTo<T>(to + c, j == 0 && s.window == 0 ? g : LoadUpTo(to + c, d - c) + g, d - c);
          }
        }
      }
      // Row r of the block reaches key t from r >= t group - (start - j group) on; the rows before it hold
      // zeros.
      for (int64_t t = 0; t < widest; t += M) {
        const int64_t from = Max(0, (j + t) * group - start);
        T *dk_to[M], *dv_to[M];
        for (int m = 0; m < M; ++m) dk_to[m] = dk + (t + m) * padded, dv_to[m] = dv + (t + m) * padded;
        const int64_t at = from * kKeys + t;
        Product<T, M>(ByColumns<T>{ds + at, kKeys}, block - from, queries + from * padded, padded, dk_to,
                      padded / W, true);
        Product<T, M>(ByColumns<T>{p + at, kKeys}, block - from, douts + from * padded, padded, dv_to,
                      padded / W, true);
      }
    }
    for (int64_t t = 0; t < keys; ++t) {
      for (int64_t c = 0; c < d; c += W) {
        StoreUpTo<T>(s.dk + (j + t) * s.G * d + c, Load(dk + t * padded + c), d - c);
        StoreUpTo<T>(s.dv + (j + t) * s.G * d + c, Load(dv + t * padded + c), d - c);
      }
    }
  }
  for (int64_t t = end; t < s.length; ++t) {
    for (int64_t c = 0; c < d; ++c) s.dk[t * s.G * d + c] = s.dv[t * s.G * d + c] = 0;
  }
}

template <typename T>
void AttentionBackward(const T* q, const T* k, const T* v, const T* out, const T* lse, const T* dout,
                       const int32_t* offsets, const int32_t* attended, int64_t documents, int64_t H,
                       int64_t G, int64_t d, T scale, int64_t window, T* dq, T* dk, T* dv) {
#pragma omp parallel for schedule(dynamic, 1) if (documents * G > 1)
  for (int64_t i = 0; i < documents * G; ++i) {
    const int64_t g = i % G, start = offsets[i / G], row = (start * H + g * (H / G)) * d,
                  key = (start * G + g) * d;
    const int64_t length = offsets[i / G + 1] - start;
    if (length == 0) continue;
    BackwardHead<T>({q + row, k + key, v + key, out + row, lse + start * H + g * (H / G), dout + row,
                     dq + row, dk + key, dv + key, length, attended ? attended[i / G] : length, H, G, d,
                     scale, window});
  }
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
