// The calls of the core that a device other than the CPU computes. A model that lies on a device carries its
// weights there; the core's functions hand such a model's calls on.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/adapt.h"
#include "core/generate.h"
#include "core/gradient.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/score.h"
#include "core/trainable.h"

namespace selfedit {

// A model's weights on a device, whatever the device makes of them.
class DeviceWeights {
 public:
  virtual ~DeviceWeights() = default;
  virtual int64_t bytes() const = 0;
  // A linear map or the embedding, on the device.
  virtual at::Tensor Weight(int64_t id) const = 0;
};

// Forward and backward of batches under one trainable delta; the loss is the caller's, on the host.
class DeviceTraining {
 public:
  virtual ~DeviceTraining() = default;
  // One batch: log-probs (and entropies) of the rows go to `loss` in one piece, its gradients go back to the
  // delta's values, where they add up. hidden (may be null): states behind the last norm, [n, hidden] on the
  // host.
  virtual void Backward(const Ragged& batch, const HeadRows& rows, double temperature, bool entropy,
                        const HeadLoss& loss, at::Tensor* hidden) = 0;
  // Adds what has come together to the delta's own gradient.
  virtual void AddGradient(TrainableDelta* delta) = 0;
};

struct Accelerator {
  std::shared_ptr<const DeviceWeights> (*upload)(const Model& model, at::Device device);
  MemoryPlan (*plan_adapt)(const AdaptSpec& spec);
  MemoryPlan (*plan_generate)(const GenerateSpec& spec);
  AdaptResult (*adapt)(const AdaptSpec& spec, const JobControl& control);
  GenerateResult (*generate)(const GenerateSpec& spec, const JobControl& control);
  std::vector<double> (*score)(const ScoreSpec& spec, const JobControl& control);
  std::vector<double> (*divergence)(const DivergenceSpec& spec, const JobControl& control);
  std::unique_ptr<DeviceTraining> (*train)(const Model& model, TrainableDelta& delta, int64_t batch_tokens);
  GradientResult (*gradient)(const GradientSpec& spec, const JobControl& control);
  // As the function of this name; tensors on the host.
  decltype(&WeightGradients) weight_gradients;
  // Runs work made of plain tensor operations where the model lies, and waits for it.
  void (*within)(const Model& model, const std::function<void()>& work);
  // Hidden states behind the last norm of rows under one stack, [n, hidden] on the host.
  at::Tensor (*hidden)(const Model& model, const Ragged& batch, const DeltaStack& stack);
};
// native/cuda/runtime has them; those of native/nocuda throw DEVICE_UNAVAILABLE.
const Accelerator& CudaAccelerator();

inline bool OnDevice(const Model& model) { return model.device_weights() != nullptr; }
// Throws DEVICE_UNSUPPORTED for a model on a device.
void RequireCpu(const Model& model, const char* what);

}  // namespace selfedit
