// Forks whose changed rows of the linear maps were copied (core/materialised.h): their rows of a batch read
// the copies in the place of weight and change.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <vector>

#include "core/materialised.h"
#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

// A fork each, or null; empty: none at all.
using Copies = std::vector<std::shared_ptr<const Materialised>>;
inline const Materialised* CopyOf(const Copies& copies, int32_t fork) {
  return fork < 0 || copies.empty() ? nullptr : copies[fork].get();
}

class CopiedOverlay : public Overlay {
 public:
  CopiedOverlay(const DeviceModel& model, const Copies& copies, int64_t segments);
  void SetSegments(const int32_t* offsets) { offsets_ = offsets; }
  // What a segment reads (null: the shared weights); takes effect with Upload.
  void Set(int64_t segment, const Materialised* copy);
  void Upload();
  bool empty() const { return runs_.empty(); }
  void Forward(int64_t matrix, int64_t rows, const void* x, void* y) const override;

 private:
  // Table of the first run of a matrix, how many there are at most, and the most rows of one.
  struct Runs {
    int64_t table = 0, count = 0, most = 0;
  };
  const DeviceModel& model_;
  int64_t segments_;
  const int32_t* offsets_ = nullptr;
  std::map<int64_t, Runs> runs_;           // by matrix
  at::Tensor addresses_host_, addresses_;  // [tables, segments]
  at::Tensor rows_host_, rows_;            // [tables, 2, segments]: first row, count
};

}  // namespace selfedit::cuda
