// The device's inner loop against the CPU's, on the kernels' twins: slots of different rank, targets, epochs,
// batch size, schedule and mask; parents under them; refill; bits that do not depend on who else is trained.
#include <c10/core/InferenceMode.h>

#include <limits>

#include "core/schedule.h"
#include "cuda/runtime/schedule.h"
#include "cuda/twins/backend_twin.h"
#include "device_testing.h"

namespace selfedit {
namespace {
using namespace testing;

SlotSpec Slot(int64_t first, int64_t last, int64_t rank, std::vector<int32_t> matrices, uint64_t key) {
  SlotSpec slot;
  slot.first_document = first;
  slot.last_document = last;
  slot.rank = rank;
  slot.alpha = 2.0 * static_cast<double>(rank);
  slot.learning_rate = 5e-3;
  slot.epochs = 3;
  slot.matrices = std::move(matrices);
  slot.key = key;
  return slot;
}

std::vector<int32_t> AllMatrices(const Model& model) {
  std::vector<int32_t> all(model.matrices().size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  return all;
}

// Six edits that differ in everything that may differ.
AdaptSpec MixedSpec(const std::shared_ptr<Model>& model) {
  AdaptSpec spec;
  spec.model = model;
  spec.documents = DeviceRows({9, 17, 5, 30, 2, 12, 7, 21, 3, 16, 11}, 5);
  const std::vector<double> u = Uniform(17, static_cast<int64_t>(spec.documents.tokens.size()));
  for (const double x : u) spec.loss_mask.push_back(x < 0.8);
  // Every document keeps a token that carries loss.
  for (int64_t d = 0; d < spec.documents.rows(); ++d) spec.loss_mask[spec.documents.offsets[d + 1] - 1] = 1;
  spec.slots.push_back(Slot(0, 3, 4, AllMatrices(*model), 1));
  spec.slots.push_back(Slot(3, 4, 12, {7, 9, 14, 16}, 2));
  spec.slots.push_back(Slot(4, 6, 1, {10, 12, 13}, 3));
  spec.slots.push_back(Slot(6, 9, 3, {7, 8, 9}, 4));
  spec.slots.push_back(Slot(9, 10, 8, {20}, 5));
  spec.slots.push_back(Slot(8, 11, 5, {14, 15, 17, 18}, 6));
  spec.slots[0].batch_size = 2;
  spec.slots[0].schedule = Schedule::kCosine;
  spec.slots[0].warmup_steps = 2;
  spec.slots[1].epochs = 5;
  spec.slots[1].schedule = Schedule::kConstant;
  spec.slots[1].clip = 0;
  spec.slots[2].weight_decay = 0.1;
  spec.slots[3].batch_size = 3;
  spec.slots[3].shuffle = false;
  spec.slots[3].clip = 0.05;
  spec.slots[4].beta2 = 0.95;
  spec.slots[5].learning_rate = 1e-2;
  spec.max_step_tokens = 64;
  return spec;
}

// Policy-like parent under all, and one more under some.
void AddParents(AdaptSpec* spec) {
  const Model& model = *spec->model;
  auto shared = std::make_shared<Delta>(), own = std::make_shared<Delta>();
  for (const int64_t m : {0, 2, 6, 11, 20}) shared->parts.push_back(DeviceLowRank(model, m, 5, 100 + m));
  for (const int64_t m : {2, 3, 16}) own->parts.push_back(DeviceLowRank(model, m, 2, 200 + m));
  for (size_t s = 0; s < spec->slots.size(); ++s) {
    spec->slots[s].stack.push_back({shared, 1.0});
    if (s % 2 == 1) spec->slots[s].stack.push_back({own, 0.5 + static_cast<double>(s)});
  }
}

struct Both {
  AdaptResult cpu, device;
};
Both Compare(const AdaptSpec& spec, double tolerance) {
  const JobControl control;
  const cuda::DeviceModel on_device(*spec.model, at::kCPU);
  Both both{Adapt(spec, control), cuda::Adapt(spec, on_device, {}, control)};
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    EXPECT_LT(DeviceDifference(*spec.model, *both.device.deltas[s], *both.cpu.deltas[s]), tolerance)
        << "edit " << s;
    EXPECT_EQ(both.device.loss[s].size(), both.cpu.loss[s].size());
    for (size_t i = 0; i < std::min(both.device.loss[s].size(), both.cpu.loss[s].size()); ++i) {
      EXPECT_NEAR(both.device.loss[s][i], both.cpu.loss[s][i], tolerance * both.cpu.loss[s][i]);
    }
  }
  return both;
}

TEST(DeviceAdapt, AgreesWithTheCpuForEditsThatDifferInEverything) {
  const c10::InferenceMode inference;
  for (const bool biases : {false, true}) {
    const AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(biases), Dtype::kFloat32, 7, 0.2));
    Compare(spec, 1e-5);
  }
}

TEST(DeviceAdapt, AgreesAboveParentsSharedAndNot) {
  const c10::InferenceMode inference;
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 8, 0.2));
  AddParents(&spec);
  Compare(spec, 1e-5);
}

TEST(DeviceAdapt, RefillsSlotsFromTheQueue) {
  const c10::InferenceMode inference;
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 9, 0.2));
  AddParents(&spec);
  spec.max_active_slots = 2;
  const Both both = Compare(spec, 1e-5);
  EXPECT_EQ(both.cpu.steps, both.device.steps);
}

TEST(DeviceAdapt, TakesDocumentsLongerThanAStep) {
  const c10::InferenceMode inference;
  // Not every model: where a gradient is nearly zero AdamW takes its sign, and float32 is far from float64 on
  // both sides (key 10: CPU 5e-3, device 5e-4).
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 21, 0.2));
  spec.max_step_tokens = 16;
  Compare(spec, 1e-5);
}

TEST(DeviceAdapt, StartsFromADelta) {
  const c10::InferenceMode inference;
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 11, 0.2));
  auto init = std::make_shared<Delta>();
  for (const int32_t m : spec.slots[1].matrices) {
    init->parts.push_back(DeviceLowRank(*spec.model, m, spec.slots[1].rank, 300 + m, 0.1 * (m + 1)));
  }
  spec.slots[1].init = init;
  Compare(spec, 1e-5);
}

// bfloat16 rounds every activation here, and only the products' inputs on the CPU: after three epochs the
// deltas differ by several times 2^-8, the losses by less.
TEST(DeviceAdapt, Bfloat16StaysClose) {
  const c10::InferenceMode inference;
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kBFloat16, 12, 0.2));
  AddParents(&spec);
  const JobControl control;
  const cuda::DeviceModel on_device(*spec.model, at::kCPU);
  const AdaptResult expected = Adapt(spec, control), found = cuda::Adapt(spec, on_device, {}, control);
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    EXPECT_LT(DeviceDifference(*spec.model, *found.deltas[s], *expected.deltas[s]), 0.25) << "edit " << s;
    for (size_t i = 0; i < expected.loss[s].size(); ++i)
      EXPECT_NEAR(found.loss[s][i], expected.loss[s][i], 0.05);
  }
}

TEST(DeviceAdapt, BitsDoNotDependOnWhoElseIsTrained) {
  const c10::InferenceMode inference;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), dtype, 13, 0.2));
    AddParents(&spec);
    const JobControl control;
    const cuda::DeviceModel on_device(*spec.model, at::kCPU);
    const AdaptResult together = cuda::Adapt(spec, on_device, {true}, control);
    for (size_t s = 0; s < spec.slots.size(); ++s) {
      AdaptSpec alone = spec;
      alone.slots = {spec.slots[s]};
      const AdaptResult one = cuda::Adapt(alone, on_device, {true}, control);
      EXPECT_TRUE(DeviceSameBits(*one.deltas[0], *together.deltas[s])) << "edit " << s;
      EXPECT_EQ(one.loss[0], together.loss[s]);
    }
  }
}

TEST(DeviceAdapt, MemoryDecidesHowManyEditsTrainTogether) {
  const c10::InferenceMode inference;
  const AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 17, 0.2));
  const cuda::DeviceModel on_device(*spec.model, at::kCPU);
  const cuda::AdaptPlan roomy = cuda::PlanAdapt(spec, on_device);
  EXPECT_EQ(roomy.memory.count, 6);
  EXPECT_TRUE(roomy.results_on_device);
  const AdaptResult expected = cuda::Adapt(spec, on_device, {true}, {});
  struct Restore {
    int64_t before = cuda::twin_free_bytes;
    ~Restore() { cuda::twin_free_bytes = before; }
  } restore;
  // Two slots and a half, without room for results.
  const MemoryPlan& plan = roomy.memory;
  const int64_t results = 6 * plan.each / 4, step = plan.fixed - results + plan.token * plan.tokens;
  EXPECT_EQ(plan.total(), step + results + 6 * plan.each);
  EXPECT_LE(plan.total(), plan.budget);
  cuda::twin_free_bytes = (step + 2 * plan.each + plan.each / 2) / 9 * 10 + 10;
  const cuda::AdaptPlan tight = cuda::PlanAdapt(spec, on_device);
  EXPECT_EQ(tight.memory.count, 2);
  EXPECT_FALSE(tight.results_on_device);
  const AdaptResult found = cuda::Adapt(spec, on_device, {true}, {});
  for (size_t s = 0; s < spec.slots.size(); ++s) {
    EXPECT_TRUE(DeviceSameBits(*found.deltas[s], *expected.deltas[s])) << "edit " << s;
  }
  cuda::twin_free_bytes = step;
  try {
    cuda::Adapt(spec, on_device, {}, {});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "OUT_OF_MEMORY");
  }
}

TEST(DeviceAdapt, AStepThatIsNotFiniteNamesItsEdit) {
  const c10::InferenceMode inference;
  AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 14, 0.2));
  spec.slots[3].learning_rate = 1e38;
  spec.slots[3].clip = 0;
  const cuda::DeviceModel on_device(*spec.model, at::kCPU);
  try {
    cuda::Adapt(spec, on_device, {}, {});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOSS_NOT_FINITE");
    EXPECT_NE(std::string(error.what()).find("edit 3"), std::string::npos) << error.what();
  }
}

TEST(DeviceAdapt, RefusesWhatItCannotTrain) {
  const c10::InferenceMode inference;
  const auto model = Model::Random(DeviceConfig(), Dtype::kFloat32, 15, 0.2);
  const cuda::DeviceModel on_device(*model, at::kCPU);
  auto code = [&](const std::function<void(AdaptSpec&)>& change) {
    AdaptSpec spec = MixedSpec(model);
    change(spec);
    try {
      cuda::Adapt(spec, on_device, {}, {});
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("nothing");
  };
  EXPECT_EQ(code([](AdaptSpec& spec) { spec.slots[1].rank = 0; }), "OPTION_INVALID");
  EXPECT_EQ(code([](AdaptSpec& spec) {
              spec.slots[1].kind = DeltaKind::kSparse;
              spec.slots[1].density = 1.5;
            }),
            "OPTION_INVALID");
  EXPECT_EQ(code([](AdaptSpec& spec) { spec.slots[1].matrices = {1000}; }), "TARGET_UNKNOWN");
  EXPECT_EQ(code([](AdaptSpec& spec) { spec.slots.clear(); }), "INPUT_INVALID");
  const std::atomic<bool> stop = true;
  AdaptSpec spec = MixedSpec(model);
  JobControl stopped;
  stopped.stop = &stop;
  EXPECT_THROW(cuda::Adapt(spec, on_device, {}, stopped), Error);
}

TEST(DeviceSchedule, StepsAreThoseOfTheCpu) {
  const c10::InferenceMode inference;
  const AdaptSpec spec = MixedSpec(Model::Random(DeviceConfig(), Dtype::kFloat32, 16, 0.2));
  const cuda::StepPlan plan = cuda::PlanSteps(spec, 3, 64);
  // Each edit's documents in the order of its own epochs, its rates by its own schedule.
  for (size_t e = 0; e < spec.slots.size(); ++e) {
    SlotSteps steps(spec.slots[e]);
    for (int64_t s = 0; s < plan.steps; ++s) {
      for (int64_t slot = 0; slot < plan.slots; ++slot) {
        if (plan.edit[s * plan.slots + slot] != static_cast<int32_t>(e)) continue;
        std::vector<int64_t> documents;
        for (int32_t i = plan.step_entries[s]; i < plan.step_entries[s + 1]; ++i) {
          if (plan.entry_slot[i] == slot) documents.push_back(plan.entry_document[i]);
        }
        EXPECT_EQ(documents, steps.NextDocuments());
        EXPECT_EQ(plan.learning_rate[s * plan.slots + slot], steps.learning_rate());
        EXPECT_EQ(plan.adam_step[s * plan.slots + slot], steps.done() + 1);
        steps.Advance();
      }
    }
    EXPECT_TRUE(steps.finished());
  }
  for (size_t s = 0; s < plan.tokens.size(); ++s) EXPECT_LE(plan.tokens[s], 64);
  const auto sizes = cuda::ChooseSizes(plan, 64, false);
  for (size_t s = 0; s < plan.tokens.size(); ++s) {
    const cuda::StepSize& size = sizes[cuda::SizeOf(sizes, plan.tokens[s])];
    EXPECT_LE(plan.tokens[s], size.tokens);
    EXPECT_LE(plan.documents[s], size.documents);
  }
}

}  // namespace
}  // namespace selfedit
