// A delta under training: values, gradients and Adam moments in flat buffers, the parts as views into them.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "core/delta.h"
#include "core/overlay.h"

namespace selfedit {

class TrainableDelta {
 public:
  // Low-rank parts on these ids (ascending), all of one rank, scale alpha / rank. Values start at zero.
  // Throws TARGET_UNKNOWN or OPTION_INVALID.
  TrainableDelta(const Model& model, const std::vector<int32_t>& matrices, int64_t rank, double alpha);
  // Parts of any kind, starting at the values of `start`; patterns, factors and scales stay as they are, but
  // that all scales are multiplied by `scale`.
  TrainableDelta(const Model& model, const Delta& start, double scale = 1.0);

  // As PEFT starts: A uniform in ±1/sqrt(in) (Kaiming uniform with a = sqrt 5), B zero. Keyed, independent of
  // order. Low-rank parts only.
  void Initialise(uint64_t key);
  // Copies a low-rank delta of the same matrices and ranks; its scales replace alpha / rank. Throws
  // DELTA_SHAPE.
  void InitialiseFrom(const Delta& delta, const Model& model);

  int64_t count() const { return values_.numel(); }
  const TrainableView& view() const { return view_; }
  at::Tensor& values() { return values_; }
  at::Tensor& gradient() { return gradient_; }
  at::Tensor& first_moment();
  at::Tensor& second_moment();
  void ZeroGradient() { gradient_.zero_(); }

  // The values as an immutable delta that shares their memory; the next BeforeWrite leaves that memory to it.
  DeltaPtr Share();
  // A delta of the same parts that holds the gradients in the place of the values, sharing their memory.
  DeltaPtr ShareGradient() const;
  // Copies the values when somebody shares them: call before every change.
  void BeforeWrite();
  // Drops gradient and moments: the delta is finished.
  void Finish();

 private:
  struct Part {
    DeltaPart like;  // pattern, factors and scale; its trainable tensors are not used
    int64_t out, in;
    int64_t offset, offset_b;  // of A or the values; of B
  };
  void AddPart(const MatrixInfo& info, DeltaPart like);
  void Allocate(const Model& model);
  void Point();
  DeltaPtr PartsOver(const at::Tensor& flat) const;

  std::vector<Part> parts_;
  int64_t size_ = 0;
  at::Tensor values_, gradient_, first_, second_;
  TrainableView view_;
  std::weak_ptr<const Delta> shared_;
};

}  // namespace selfedit
