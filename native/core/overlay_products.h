// Serial products of one segment's rows with one change, on pointers. Every output element is summed in an
// order that depends on shapes and on the segment's own rows only.
#pragma once
#include <cstdint>

#include "core/overlay.h"

namespace selfedit::overlay {

// y[m, out] += scale x D^T, columns [from, to) of y (dense changes are split over columns, others take all).
template <typename T>
void Forward(const PartView& view, const T* x, int64_t m, int64_t from, int64_t to, T* y);
// dx[m, in] += scale dy D, columns [from, to) of dx. u and v [m, rank] (null for others than low-rank and
// spectral): filled with what Values needs, u only when x is given.
template <typename T>
void BackwardInput(const PartView& view, const T* x, const T* dy, int64_t m, int64_t from, int64_t to, T* u,
                   T* v, T* dx);
// Gradients of the values from all rows of a segment; piece of pieces: a fixed part of the values.
int64_t Pieces(const PartView& view);
template <typename T>
void Values(const PartView& view, const T* x, const T* dy, int64_t m, const T* u, const T* v, int64_t piece);

// One row of D: y[in] += scale D[row].
template <typename T>
void RowForward(const PartView& view, int64_t row, T* y);
// Gradient of the values from the gradient dy[in] of that row.
template <typename T>
void RowBackward(const PartView& view, int64_t row, const T* dy);

}  // namespace selfedit::overlay
