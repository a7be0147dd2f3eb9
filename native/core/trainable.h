// A low-rank delta under training: values, gradients and Adam moments in flat buffers, factors as views into
// them.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "core/delta.h"
#include "core/overlay.h"

namespace selfedit {

class TrainableDelta {
 public:
  // matrices: ids, ascending. Values start at zero. Throws TARGET_UNKNOWN or OPTION_INVALID.
  TrainableDelta(const Model& model, const std::vector<int32_t>& matrices, int64_t rank, double alpha);

  // As PEFT starts: A uniform in ±1/sqrt(in) (Kaiming uniform with a = sqrt 5), B zero. Keyed, independent of
  // order.
  void Initialise(uint64_t key);
  // Copies a delta of the same matrices and ranks; its scales replace alpha / rank. Throws DELTA_SHAPE.
  void InitialiseFrom(const Delta& delta, const Model& model);

  int64_t count() const { return values_.numel(); }
  const TrainableView& view() const { return view_; }
  at::Tensor& values() { return values_; }
  at::Tensor& gradient() { return gradient_; }
  at::Tensor& first_moment() { return first_; }
  at::Tensor& second_moment() { return second_; }
  void ZeroGradient() { gradient_.zero_(); }

  // The values as an immutable delta that shares their memory; the next BeforeWrite leaves that memory to it.
  DeltaPtr Share();
  // Copies the values when somebody shares them: call before every change.
  void BeforeWrite();
  // Drops gradient and moments: the delta is finished.
  void Finish();

 private:
  struct Part {
    int64_t matrix, rank, out, in, offset_a, offset_b;
    double scale;
  };
  void Point();

  std::vector<Part> parts_;
  at::Tensor values_, gradient_, first_, second_;
  TrainableView view_;
  std::weak_ptr<const Delta> shared_;
};

}  // namespace selfedit
