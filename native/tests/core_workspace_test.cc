// Tensor memory of the compute thread: no allocation per step once warm, everything back after a trim, blocks
// that outlive their thread or are let go by another.
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <new>
#include <string>
#include <thread>

#include "core/adapt.h"
#include "core/generate.h"
#include "core/random.h"
#include "core/workspace.h"

namespace selfedit {
namespace {

std::shared_ptr<Model> SmallModel(Dtype dtype) {
  ModelConfig config;
  config.vocab_size = 300;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.max_positions = 128;
  config.tied = true;
  return Model::Random(config, dtype, 3, 0.05);
}

void AppendRow(Ragged* rows, int64_t length) {
  std::vector<int32_t> tokens;
  for (const double u : Uniform(length, length)) tokens.push_back(static_cast<int32_t>(u * 300));
  rows->Append(tokens.data(), length);
}

AdaptSpec TwoEdits(const std::shared_ptr<Model>& model, int64_t epochs) {
  AdaptSpec spec;
  spec.model = model;
  for (const int first : {9, 17}) {
    SlotSpec slot;
    slot.first_document = spec.documents.rows();
    for (const int length : {first, 40, 23}) AppendRow(&spec.documents, length);
    slot.last_document = spec.documents.rows();
    slot.rank = 4;
    slot.epochs = epochs;
    slot.matrices = {0, 2, 9, 13};
    spec.slots.push_back(slot);
  }
  return spec;
}

class Workspace : public ::testing::TestWithParam<Dtype> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, Workspace,
                         ::testing::Values(Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat64));

TEST_P(Workspace, StepsOfAdaptAskTheSystemForNothingOnceWarm) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  const auto model = SmallModel(GetParam());
  constexpr int64_t kEpochs = 6, kWarm = 2 * 3, kSteps = kEpochs * 3;
  std::vector<int64_t> allocations;
  JobControl control;
  control.report = [&](const Progress&) { allocations.push_back(workspace::Read().system_allocations); };
  Adapt(TwoEdits(model, kEpochs), control);
  ASSERT_EQ(static_cast<int64_t>(allocations.size()), kSteps);
  EXPECT_GT(allocations[0], 0);
  // The last step also checks the finished values.
  for (int64_t step = kWarm; step < kSteps - 1; ++step) {
    EXPECT_EQ(allocations[step], allocations[kWarm - 1]) << "step " << step;
  }
}

TEST_P(Workspace, StepsOfGenerateAskTheSystemForNothingOnceWarm) {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  GenerateSpec spec;
  spec.model = SmallModel(GetParam());
  spec.forks = {{}, {{Adapt(TwoEdits(spec.model, 1), {}).deltas[0], 1.0}}};
  for (int32_t p = 0; p < 4; ++p) {
    AppendRow(&spec.prompts, 5 + 3 * p);
    spec.prompt_fork.push_back(p % 2);
    spec.row_prompt.push_back(p);
    spec.max_tokens.push_back(24);
    spec.top_k.push_back(0);
    spec.temperature.push_back(1);
    spec.top_p.push_back(1);
    spec.keys.push_back(p);
  }
  std::vector<int64_t> allocations;
  JobControl control;
  control.report = [&](const Progress&) { allocations.push_back(workspace::Read().system_allocations); };
  Generate(spec, control);
  ASSERT_GE(allocations.size(), 20u);
  for (size_t step = 4; step < allocations.size(); ++step) {
    EXPECT_EQ(allocations[step], allocations[3]) << "step " << step;
  }
}

TEST(WorkspaceMemory, TrimGivesBackWhatNoTensorHolds) {
  const workspace::Scope scope;
  workspace::Trim();
  const workspace::Stats before = workspace::Read();
  {
    at::Tensor held = at::ones({1000});
    { const at::Tensor large = at::ones({3 << 20}), small = at::ones({7}); }
    EXPECT_GE(workspace::Read().kept_bytes, 12 << 20);
    workspace::Trim();
    EXPECT_EQ(workspace::Read().kept_bytes, 0);
    EXPECT_GE(workspace::Read().used_bytes, before.used_bytes + 4000);
    EXPECT_LE(workspace::Read().used_bytes, before.used_bytes + 2 * 4000);
    EXPECT_EQ(held.sum().item<float>(), 1000);
  }
  workspace::Trim();
  EXPECT_EQ(workspace::Read().used_bytes, before.used_bytes);
}

TEST(WorkspaceMemory, ABlockIsUsedAgainByTensorsOfItsSizeAndALittleLess) {
  const workspace::Scope scope;
  workspace::Trim();
  const void* first = at::empty({1 << 20}).const_data_ptr();
  const int64_t allocations = workspace::Read().system_allocations;
  EXPECT_EQ(at::empty({1 << 20}).const_data_ptr(), first);
  EXPECT_EQ(at::empty({(1 << 20) * 3 / 4}).const_data_ptr(), first);
  EXPECT_EQ(workspace::Read().system_allocations, allocations);
  // A small tensor must not sit on a large block.
  EXPECT_NE(at::empty({1 << 18}).const_data_ptr(), first);
  EXPECT_EQ(workspace::Read().system_allocations, allocations + 1);
}

TEST(WorkspaceMemory, BlocksAreAlignedAndDoNotOverlap) {
  const workspace::Scope scope;
  std::vector<at::Tensor> tensors;
  for (int64_t bytes = 1; bytes < 300000; bytes = bytes * 5 / 4 + 1) {
    for (int i = 0; i < 2; ++i) {
      tensors.push_back(at::full({bytes}, static_cast<int>(tensors.size() % 251), at::kByte));
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensors[i].const_data_ptr()) % 64, 0u);
    EXPECT_TRUE((tensors[i] == static_cast<int>(i % 251)).all().item<bool>()) << i;
  }
}

TEST(WorkspaceMemory, TensorsOutliveTheirThreadAndAreLetGoByAnother) {
  const int64_t used = workspace::Read().used_bytes;
  at::Tensor survivor;
  std::thread([&] {
    const workspace::Scope scope;
    survivor = at::full({100000}, 2.0f);
    at::Tensor handed = at::ones({50000});
    std::thread([handed = std::move(handed)]() mutable { handed.reset(); }).join();
    EXPECT_GE(workspace::Read().kept_bytes, 200000);  // another thread's block is kept too
  }).join();
  EXPECT_EQ(workspace::Read().kept_bytes, 0);
  EXPECT_EQ(survivor.sum().item<float>(), 200000);
  EXPECT_GE(workspace::Read().used_bytes, used + 400000);
  survivor.reset();
  EXPECT_EQ(workspace::Read().used_bytes, used);
  EXPECT_EQ(workspace::Read().kept_bytes, 0);
}

TEST(WorkspaceMemory, OtherThreadsKeepTheSystemsAllocator) {
  const workspace::Scope scope;
  const int64_t used = workspace::Read().used_bytes;
  std::thread([&] {
    const at::Tensor other = at::ones({100000});
    EXPECT_EQ(workspace::Read().used_bytes, used);
  }).join();
}

TEST(WorkspaceMemory, BarePointersOfBothAllocatorsCanBeFreed) {
  void* older = c10::GetDefaultCPUAllocator()->raw_allocate(1000);
  const workspace::Scope scope;
  const int64_t used = workspace::Read().used_bytes;
  void* ours = c10::GetCPUAllocator()->raw_allocate(1000);
  EXPECT_GT(workspace::Read().used_bytes, used);
  c10::GetCPUAllocator()->raw_deallocate(older);
  c10::GetCPUAllocator()->raw_deallocate(ours);
  EXPECT_EQ(workspace::Read().used_bytes, used);
}

TEST(WorkspaceMemory, AllocationsFailWhenTheyAreToldTo) {
  const workspace::Scope scope;
  const int64_t used = workspace::Read().used_blocks;
  const auto make = [] { return at::ones({1000}); };
  const auto fails = [&](workspace::Failing how) {
    workspace::FailAllocations(2, 3, how);
    std::string text;
    for (int i = 0; i < 7; ++i) {
      try {
        const at::Tensor made = make();
        EXPECT_EQ(workspace::Read().used_blocks, used + 1);
        text += '+';
      } catch (const std::bad_alloc&) {
        text += 'b';
      } catch (const c10::Error&) {
        text += 't';
      }
    }
    return text;
  };
  EXPECT_EQ(fails(workspace::Failing::kBadAlloc), "++bbb++");
  EXPECT_EQ(fails(workspace::Failing::kLibtorch), "++ttt++");
  workspace::FailAllocations(0, 5, workspace::Failing::kBadAlloc);
  workspace::FailAllocations(0, 0, workspace::Failing::kBadAlloc);
  make();
  EXPECT_EQ(workspace::Read().used_blocks, used);
}

TEST(WorkspaceMemory, ResultsAreTheSameBits) {
  const c10::InferenceMode inference;
  const auto model = SmallModel(Dtype::kFloat32);
  const AdaptResult plain = Adapt(TwoEdits(model, 3), {});
  const workspace::Scope scope;
  for (int i = 0; i < 2; ++i) {
    const AdaptResult pooled = Adapt(TwoEdits(model, 3), {});
    EXPECT_EQ(plain.loss, pooled.loss);
    for (size_t d = 0; d < plain.deltas.size(); ++d) {
      for (size_t p = 0; p < plain.deltas[d]->parts.size(); ++p) {
        EXPECT_TRUE(at::equal(plain.deltas[d]->parts[p].b, pooled.deltas[d]->parts[p].b));
      }
    }
  }
}

}  // namespace
}  // namespace selfedit
