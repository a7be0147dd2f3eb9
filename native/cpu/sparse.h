// Products with one sparse change D [out, in] in compressed rows: row i holds values[k] at columns[k] for
// row_offsets[i] <= k < row_offsets[i + 1], columns ascending. Serial (the caller spreads segments and row
// blocks over threads), no allocation beyond a thread's scratch, no torch header. Each output element is
// summed in one fixed order that depends on D alone: a row's result does not depend on its batch mates. m is
// the number of batch rows.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

struct SparseMatrix {
  int64_t out = 0, in = 0;
  const int32_t* row_offsets = nullptr;  // [out + 1]
  const int32_t* columns = nullptr;      // [row_offsets[out]]
};

// y[m, out] += scale * x[m, in] D^T
template <typename T>
void SparseForward(const SparseMatrix& pattern, const T* values, T scale, const T* x, int64_t m, T* y);
// dx[m, in] += scale * dy[m, out] D
template <typename T>
void SparseBackwardInput(const SparseMatrix& pattern, const T* values, T scale, const T* dy, int64_t m,
                         T* dx);
// dvalues[k] += scale * sum_t dy[t, i] x[t, columns[k]]; over t in ascending order of blocks
template <typename T>
void SparseBackwardValues(const SparseMatrix& pattern, T scale, const T* x, const T* dy, int64_t m,
                          T* dvalues);

}  // namespace selfedit::cpu
