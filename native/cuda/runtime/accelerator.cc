// What core/accelerator.h asks for, on the GPU that the model lies on. Errors that stay become DEVICE_LOST.
#include "core/accelerator.h"

#include <c10/util/Exception.h>

#include "cuda/runtime/backend.h"
#include "cuda/runtime/calls.h"

namespace selfedit {
namespace {

const cuda::DeviceModel& On(const Model& model) {
  return static_cast<const cuda::DeviceModel&>(*model.device_weights());
}

template <typename F>
auto Guarded(F&& call) {
  try {
    return call();
  } catch (const c10::OutOfMemoryError& error) {
    throw Error("OUT_OF_MEMORY",
                std::string("the GPU's memory does not suffice: ") + error.what_without_backtrace());
  } catch (const c10::AcceleratorError& error) {
    throw Error("DEVICE_LOST", std::string("the GPU reports: ") + error.what_without_backtrace() +
                                   "; what was on it is lost, start the process again");
  }
}

std::shared_ptr<const DeviceWeights> Upload(const Model& model, at::Device device) {
  return Guarded([&] { return std::make_shared<const cuda::DeviceModel>(model, device); });
}
MemoryPlan PlanAdaptOn(const AdaptSpec& spec) {
  return Guarded([&] { return cuda::PlanAdapt(spec, On(*spec.model)).memory; });
}
MemoryPlan PlanGenerateOn(const GenerateSpec& spec) {
  return Guarded([&] { return cuda::PlanGenerate(spec, On(*spec.model)); });
}
AdaptResult AdaptOn(const AdaptSpec& spec, const JobControl& control) {
  return Guarded([&] { return cuda::Adapt(spec, On(*spec.model), {spec.deterministic}, control); });
}
GenerateResult GenerateOn(const GenerateSpec& spec, const JobControl& control) {
  return Guarded([&] { return cuda::Generate(spec, On(*spec.model), control); });
}
std::vector<double> ScoreOn(const ScoreSpec& spec, const JobControl& control) {
  return Guarded([&] { return cuda::Score(spec, On(*spec.model), control); });
}
std::vector<double> DivergenceOn(const DivergenceSpec& spec, const JobControl& control) {
  return Guarded([&] { return cuda::Divergence(spec, On(*spec.model), control); });
}
std::unique_ptr<DeviceTraining> TrainOn(const Model& model, TrainableDelta& delta, int64_t batch_tokens) {
  return Guarded([&] { return cuda::Train(On(model), delta, batch_tokens); });
}
GradientResult GradientOn(const GradientSpec& spec, const JobControl& control) {
  return Guarded([&] { return cuda::Gradient(spec, On(*spec.model), control); });
}
std::vector<at::Tensor> WeightGradientsOn(const Model& model, const DeltaStack& stack,
                                          const Ragged& documents, const std::vector<uint8_t>& loss_mask,
                                          const std::vector<int32_t>& matrices, Selection selection,
                                          const JobControl& control) {
  return Guarded([&] {
    return cuda::WeightGradients(On(model), stack, documents, loss_mask, matrices, selection, control);
  });
}
void WithinDevice(const Model& model, const std::function<void()>& work) {
  Guarded([&] {
    const cuda::DeviceScope scope(On(model).device());
    work();
    cuda::Synchronise();
    cuda::CheckDevice();
  });
}
at::Tensor HiddenOn(const Model& model, const Ragged& batch, const DeltaStack& stack) {
  return Guarded([&] { return cuda::Hidden(On(model), batch, stack); });
}

}  // namespace

const Accelerator& CudaAccelerator() {
  static const Accelerator accelerator{Upload,     PlanAdaptOn,       PlanGenerateOn, AdaptOn,
                                       GenerateOn, ScoreOn,           DivergenceOn,   TrainOn,
                                       GradientOn, WeightGradientsOn, WithinDevice,   HiddenOn};
  return accelerator;
}

}  // namespace selfedit
