#include "core/overlay_products.h"

#include <algorithm>

#include "cpu/gemm.h"
#include "cpu/sparse.h"

namespace selfedit::overlay {
namespace {

constexpr int64_t kPieceRows = 512;  // rows of B, columns of A, rows of a dense gradient that are one piece

template <typename T>
const T* In(const void* pointer) {
  return static_cast<const T*>(pointer);
}
template <typename T>
T* Out(void* pointer) {
  return static_cast<T*>(pointer);
}

template <typename T>
T* Scratch(int64_t count) {
  thread_local std::vector<T> buffer;
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

cpu::SparseMatrix Pattern(const PartView& view) {
  return {view.out, view.in, view.row_offsets, view.columns};
}

// u[m, r] scaled column by column: sigma_k values_k, the change of singular value k.
template <typename T>
void ScaleByGains(const PartView& view, T* u, int64_t m) {
  const T* sigma = In<T>(view.sigma);
  const T* values = In<T>(view.values);
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t k = 0; k < view.rank; ++k) u[t * view.rank + k] *= sigma[k] * values[k];
  }
}

int64_t PiecesOf(int64_t count) { return (count + kPieceRows - 1) / kPieceRows; }

}  // namespace

template <typename T>
void Forward(const PartView& view, const T* x, int64_t m, int64_t from, int64_t to, T* y) {
  const int64_t r = view.rank, in = view.in, out = view.out;
  const T scale = T(view.scale);
  switch (view.kind) {
    case DeltaKind::kLowRank:
    case DeltaKind::kSpectral: {
      T* u = Scratch<T>(m * r);
      cpu::Gemm<T>(false, true, m, r, in, T(1), x, in, In<T>(view.a), in, T(0), u, r);
      if (view.kind == DeltaKind::kSpectral) ScaleByGains(view, u, m);
      cpu::Gemm<T>(false, true, m, out, r, scale, u, r, In<T>(view.b), r, T(1), y, out);
      return;
    }
    case DeltaKind::kSparse:
      cpu::SparseForward<T>(Pattern(view), In<T>(view.values), scale, x, m, y);
      return;
    case DeltaKind::kDense:
      if (view.values == nullptr) return;  // only its gradient is wanted
      cpu::Gemm<T>(false, true, m, to - from, in, scale, x, in, In<T>(view.values) + from * in, in, T(1),
                   y + from, out);
  }
}

template <typename T>
void BackwardInput(const PartView& view, const T* x, const T* dy, int64_t m, int64_t from, int64_t to, T* u,
                   T* v, T* dx) {
  const int64_t r = view.rank, in = view.in, out = view.out;
  const T scale = T(view.scale);
  switch (view.kind) {
    case DeltaKind::kLowRank:
    case DeltaKind::kSpectral: {
      const bool spectral = view.kind == DeltaKind::kSpectral;
      if (u != nullptr && x != nullptr) {
        cpu::Gemm<T>(false, true, m, r, in, scale, x, in, In<T>(view.a), in, T(0), u, r);
      }
      cpu::Gemm<T>(false, false, m, r, out, scale, dy, out, In<T>(view.b), r, T(0), v, r);
      if (dx == nullptr) return;
      const T* w = v;
      if (spectral) {
        T* gained = Scratch<T>(m * r);
        std::copy(v, v + m * r, gained);
        ScaleByGains(view, gained, m);
        w = gained;
      }
      cpu::Gemm<T>(false, false, m, in, r, T(1), w, r, In<T>(view.a), in, T(1), dx, in);
      return;
    }
    case DeltaKind::kSparse:
      if (dx != nullptr) cpu::SparseBackwardInput<T>(Pattern(view), In<T>(view.values), scale, dy, m, dx);
      return;
    case DeltaKind::kDense:
      if (dx == nullptr || view.values == nullptr) return;
      cpu::Gemm<T>(false, false, m, to - from, out, scale, dy, out, In<T>(view.values) + from, in, T(1),
                   dx + from, in);
  }
}

int64_t Pieces(const PartView& view) {
  switch (view.kind) {
    case DeltaKind::kLowRank:
      return PiecesOf(view.out) + PiecesOf(view.in);
    case DeltaKind::kDense:
      return PiecesOf(view.out);
    default:
      return 1;
  }
}

template <typename T>
void Values(const PartView& view, const T* x, const T* dy, int64_t m, const T* u, const T* v, int64_t piece) {
  const int64_t r = view.rank, in = view.in, out = view.out;
  switch (view.kind) {
    case DeltaKind::kLowRank: {
      const int64_t first = PiecesOf(out);
      if (piece < first) {
        const int64_t begin = piece * kPieceRows, count = std::min(kPieceRows, out - begin);
        cpu::Gemm<T>(true, false, count, r, m, T(1), dy + begin, out, u, r, T(1), Out<T>(view.db) + begin * r,
                     r);
      } else {
        const int64_t begin = (piece - first) * kPieceRows, count = std::min(kPieceRows, in - begin);
        cpu::Gemm<T>(true, false, r, count, m, T(1), v, r, x + begin, in, T(1), Out<T>(view.da) + begin, in);
      }
      return;
    }
    case DeltaKind::kSpectral: {
      // u holds scale x V^T and v scale dy U: one of the two scales is taken out again.
      const T* sigma = In<T>(view.sigma);
      T* gradient = Out<T>(view.dvalues);
      for (int64_t k = 0; k < r; ++k) {
        T sum = 0;
        for (int64_t t = 0; t < m; ++t) sum += u[t * r + k] * v[t * r + k];
        if (view.scale != 0) gradient[k] += sigma[k] * sum / T(view.scale);
      }
      return;
    }
    case DeltaKind::kSparse:
      cpu::SparseBackwardValues<T>(Pattern(view), T(view.scale), x, dy, m, Out<T>(view.dvalues));
      return;
    case DeltaKind::kDense: {
      const int64_t begin = piece * kPieceRows, count = std::min(kPieceRows, out - begin);
      cpu::Gemm<T>(true, false, count, in, m, T(view.scale), dy + begin, out, x, in, T(1),
                   Out<T>(view.dvalues) + begin * in, in);
    }
  }
}

template <typename T>
void RowForward(const PartView& view, int64_t row, T* y) {
  const int64_t r = view.rank, in = view.in;
  const T scale = T(view.scale);
  switch (view.kind) {
    case DeltaKind::kLowRank:
    case DeltaKind::kSpectral: {
      T* u = Scratch<T>(r);
      std::copy_n(In<T>(view.b) + row * r, r, u);
      if (view.kind == DeltaKind::kSpectral) ScaleByGains(view, u, 1);
      cpu::Gemm<T>(false, false, 1, in, r, scale, u, r, In<T>(view.a), in, T(1), y, in);
      return;
    }
    case DeltaKind::kSparse:
      for (int32_t k = view.row_offsets[row]; k < view.row_offsets[row + 1]; ++k) {
        y[view.columns[k]] += scale * In<T>(view.values)[k];
      }
      return;
    case DeltaKind::kDense:
      if (view.values == nullptr) return;
      for (int64_t j = 0; j < in; ++j) y[j] += scale * In<T>(view.values)[row * in + j];
  }
}

template <typename T>
void RowBackward(const PartView& view, int64_t row, const T* dy) {
  const int64_t r = view.rank, in = view.in;
  const T scale = T(view.scale);
  switch (view.kind) {
    case DeltaKind::kLowRank:
      cpu::Gemm<T>(false, true, 1, r, in, scale, dy, in, In<T>(view.a), in, T(1), Out<T>(view.db) + row * r,
                   r);
      cpu::Gemm<T>(true, false, r, in, 1, scale, In<T>(view.b) + row * r, r, dy, in, T(1), Out<T>(view.da),
                   in);
      return;
    case DeltaKind::kSpectral: {
      T* w = Scratch<T>(r);
      cpu::Gemm<T>(false, true, 1, r, in, scale, dy, in, In<T>(view.a), in, T(0), w, r);
      for (int64_t k = 0; k < r; ++k) {
        Out<T>(view.dvalues)[k] += In<T>(view.sigma)[k] * In<T>(view.b)[row * r + k] * w[k];
      }
      return;
    }
    case DeltaKind::kSparse:
      for (int32_t k = view.row_offsets[row]; k < view.row_offsets[row + 1]; ++k) {
        Out<T>(view.dvalues)[k] += scale * dy[view.columns[k]];
      }
      return;
    case DeltaKind::kDense:
      for (int64_t j = 0; j < in; ++j) Out<T>(view.dvalues)[row * in + j] += scale * dy[j];
  }
}

template void Forward<float>(const PartView&, const float*, int64_t, int64_t, int64_t, float*);
template void Forward<double>(const PartView&, const double*, int64_t, int64_t, int64_t, double*);
template void BackwardInput<float>(const PartView&, const float*, const float*, int64_t, int64_t, int64_t,
                                   float*, float*, float*);
template void BackwardInput<double>(const PartView&, const double*, const double*, int64_t, int64_t, int64_t,
                                    double*, double*, double*);
template void Values<float>(const PartView&, const float*, const float*, int64_t, const float*, const float*,
                            int64_t);
template void Values<double>(const PartView&, const double*, const double*, int64_t, const double*,
                             const double*, int64_t);
template void RowForward<float>(const PartView&, int64_t, float*);
template void RowForward<double>(const PartView&, int64_t, double*);
template void RowBackward<float>(const PartView&, int64_t, const float*);
template void RowBackward<double>(const PartView&, int64_t, const double*);

}  // namespace selfedit::overlay
