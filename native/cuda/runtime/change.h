// One weight's change as the products of a batch see it: of every segment one, of one kind. A spectral change
// is a low-rank one with a gain (its singular values are part of A).
#pragma once
#include <ATen/ATen.h>

#include "core/delta.h"
#include "cuda/kernels/kernels.h"
#include "cuda/runtime/device_model.h"

namespace selfedit::cuda {

struct Change {
  DeltaKind kind = DeltaKind::kLowRank;
  LowRank low_rank;
  Sparse sparse;
  Dense dense;
};
// Where the gradients of its values go.
struct ChangeGradient {
  LowRankGradient low_rank;        // low-rank and spectral
  float* const* values = nullptr;  // [S] sparse and dense; of a low-rank change dB, for lookups
  bool accumulate = false;         // lookups always add
};

// y[t] += D_s x[t]; u [rows, R] is kept for the backward. y of y_type, the products' type or float.
void ChangeForward(Type type, Type y_type, const Segments& segments, const Change& change, const void* x,
                   void* u, void* y);
// dx[t] += D_s^T dy[t] where dx is not null, and the gradients of the values where `gradient` is not.
// v: scratch [rows, R].
void ChangeBackward(Type type, const Segments& segments, const Change& change, const ChangeGradient* gradient,
                    const void* x, const void* dy, const void* u, void* v, void* dx);
// y[t] += D_s[token[t]]
void ChangeLookup(Type type, const Segments& segments, const Change& change, const int32_t* token, void* v,
                  void* y);
// Adds the gradients of the values. u, v: scratch [rows, R].
void ChangeLookupBackward(Type type, const Segments& segments, const Change& change,
                          const ChangeGradient& gradient, const int32_t* token, const void* dy, void* u,
                          void* v);

// Addresses, ranks and scales of changes by segment, in device memory that may change between the replays of
// a graph. Set writes the host's copy.
class ChangeTables {
 public:
  ChangeTables() = default;
  ChangeTables(const DeviceModel& model, int64_t tables, int64_t segments);

  enum Address : int64_t {
    kA,
    kB,
    kGain,
    kRowOffsets = 0,
    kColumns,
    kValues,
    kColumnOffsets,
    kRows,
    kOrder,
    kGradient,
    kAddresses
  };
  void Set(int64_t table, int64_t segment, Address which, const void* address);
  void Set(int64_t table, int64_t segment, Address which, const at::Tensor& tensor);
  void SetRank(int64_t table, int64_t segment, int64_t rank);
  void SetScale(int64_t table, int64_t segment, double scale);
  // No change: all addresses null.
  void Clear(int64_t table, int64_t segment);
  void Upload();

  Change View(int64_t table, DeltaKind kind, int64_t rank, int64_t in, int64_t out) const;
  float* const* Gradients(int64_t table) const;

 private:
  const int64_t* Row(int64_t table, int64_t which) const;

  int64_t segments_ = 0;
  at::Tensor addresses_host_, ranks_host_,
      scales_host_;  // [tables, kAddresses, segments], [tables, segments]
  at::Tensor addresses_, ranks_, scales_;
};

// The same entries of a sparse change by column, as the gradient of the input reads them; on the host.
struct SparseByColumn {
  at::Tensor column_offsets, rows, order;
};
SparseByColumn ByColumn(const at::Tensor& row_offsets, const at::Tensor& columns, int64_t in);

// On the device in this type, whatever it was on before.
at::Tensor OnDeviceAs(const DeviceModel& model, const at::Tensor& tensor, at::ScalarType dtype);

}  // namespace selfedit::cuda
