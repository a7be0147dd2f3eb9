// Twin of native/cuda/runtime/accelerator.cc for a build without CUDA. No model can lie on a GPU then, so
// only the upload is ever asked for.
#include "core/accelerator.h"

#include "core/device.h"

namespace selfedit {
namespace {

// Count says why there is no GPU.
template <typename Result, typename... Arguments>
Result Unavailable(Arguments...) {
  cuda::Count();
  throw Error("DEVICE_UNAVAILABLE", "selfedit was built without CUDA");
}

}  // namespace

const Accelerator& CudaAccelerator() {
  static const Accelerator accelerator{
      Unavailable<std::shared_ptr<const DeviceWeights>, const Model&, at::Device>,
      Unavailable<MemoryPlan, const AdaptSpec&>,
      Unavailable<MemoryPlan, const GenerateSpec&>,
      Unavailable<AdaptResult, const AdaptSpec&, const JobControl&>,
      Unavailable<GenerateResult, const GenerateSpec&, const JobControl&>,
      Unavailable<std::vector<double>, const ScoreSpec&, const JobControl&>,
      Unavailable<std::vector<double>, const DivergenceSpec&, const JobControl&>,
      Unavailable<std::unique_ptr<DeviceTraining>, const Model&, TrainableDelta&, int64_t>,
      Unavailable<GradientResult, const GradientSpec&, const JobControl&>,
      Unavailable<std::vector<at::Tensor>, const Model&, const DeltaStack&, const Ragged&,
                  const std::vector<uint8_t>&, const std::vector<int32_t>&, Selection, const JobControl&>,
      Unavailable<void, const Model&, const std::function<void()>&>,
      Unavailable<at::Tensor, const Model&, const Ragged&, const DeltaStack&>};
  return accelerator;
}

}  // namespace selfedit
