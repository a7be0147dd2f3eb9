// Batches made from the schedule on the device against a plain walk over it.
#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaStep : public CudaTest {};
INSTANTIATE_TEST_SUITE_P(Types, CudaStep, ::testing::Values(Type::kFloat32));

TEST_P(CudaStep, GathersEveryStepOfTheSchedule) {
  const int64_t S = 5, D = 9, T = 60, steps = 4;
  const std::vector<int32_t> lengths = {7, 2, 13, 5, 1, 9, 30};
  std::vector<int32_t> offsets{0}, tokens;
  std::vector<uint8_t> mask;
  std::mt19937_64 engine(5);
  for (const int32_t length : lengths) {
    for (int32_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<int32_t>(engine() % 50000));
      mask.push_back(engine() % 3 != 0);
    }
    offsets.push_back(static_cast<int32_t>(tokens.size()));
  }
  // Per step (document, slot), by slot: several of one slot, empty slots at both ends, no slot at all.
  const std::vector<std::vector<std::pair<int32_t, int32_t>>> plan = {
      {{2, 0}, {0, 1}, {1, 1}, {4, 3}}, {{6, 2}}, {}, {{3, 0}, {1, 0}, {1, 0}, {4, 2}, {5, 4}, {0, 4}}};
  std::vector<int32_t> step_entries{0}, entry_document, entry_slot, adam_step;
  std::vector<double> rate;
  std::vector<float> loss_scale;
  for (const auto& step : plan) {
    for (const auto& [document, slot] : step) {
      entry_document.push_back(document);
      entry_slot.push_back(slot);
    }
    step_entries.push_back(static_cast<int32_t>(entry_document.size()));
    for (int64_t s = 0; s < S; ++s) {
      rate.push_back(static_cast<double>(engine() % 1000) / 1000);
      adam_step.push_back(static_cast<int32_t>(engine() % 4));
      loss_scale.push_back(1.0f / static_cast<float>(1 + engine() % 20));
    }
  }
  const Array<int32_t> all(tokens), at(offsets), entries(step_entries), documents(entry_document),
      of(entry_slot), adam(adam_step), counter(1, 0);
  const Array<uint8_t> masked(mask);
  const Array<double> rates(rate);
  const Array<float> scales(loss_scale);
  for (const bool with_mask : {true, false}) {
    const Schedule schedule{all.data(),       with_mask ? masked.data() : nullptr,
                            at.data(),        entries.data(),
                            documents.data(), of.data(),
                            rates.data(),     adam.data(),
                            scales.data(),    steps};
    const Array<int32_t> begin(1, 0);
    for (int64_t step = 0; step <= steps; ++step) {  // one beyond the end
      SCOPED_TRACE(step);
      const Array<int32_t> token(T, -9), position(T, -9), document(D + 1, -9), segment(S + 1, -9),
          target(T, -9), active(S, -9);
      const Array<float> weight(T, -9.0f);
      const Array<double> learning_rate(S, -9.0);
      GatherStep(schedule, begin.data(),
                 {T, D, S, token.data(), position.data(), document.data(), segment.data(), target.data(),
                  weight.data(), learning_rate.data(), active.data()},
                 nullptr);
      std::vector<int32_t> tokens_of(T, 0), positions(T, 0), targets(T, -1), documents_of{0}, active_of(S, 0);
      std::vector<float> weights(T, 0);
      std::vector<double> rates_of(S, 0);
      std::vector<int32_t> rows_of_slot(S, 0), segments{0};
      int32_t row = 0;
      if (step < steps) {
        for (const auto& [d, slot] : plan[step]) {
          for (int32_t i = 0; i < lengths[d]; ++i, ++row) {
            tokens_of[row] = tokens[offsets[d] + i];
            positions[row] = i;
            if (i + 1 < lengths[d] && (!with_mask || mask[offsets[d] + i + 1])) {
              targets[row] = tokens[offsets[d] + i + 1];
              weights[row] = loss_scale[step * S + slot];
            }
          }
          rows_of_slot[slot] += lengths[d];
          documents_of.push_back(row);
        }
        for (int64_t s = 0; s < S; ++s) {
          rates_of[s] = rate[step * S + s];
          active_of[s] = adam_step[step * S + s];
        }
      }
      documents_of.resize(D + 1, row);
      for (const int32_t rows : rows_of_slot) segments.push_back(segments.back() + rows);
      EXPECT_EQ(token.Read(), tokens_of);
      EXPECT_EQ(position.Read(), positions);
      EXPECT_EQ(document.Read(), documents_of);
      EXPECT_EQ(segment.Read(), segments);
      EXPECT_EQ(target.Read(), targets);
      EXPECT_EQ(weight.Read(), weights);
      EXPECT_EQ(learning_rate.Read(), rates_of);
      EXPECT_EQ(active.Read(), active_of);
      AdvanceStep(begin.data(), nullptr);
      EXPECT_EQ(begin.Read()[0], step + 1);
    }
  }
}

// More documents than one block of the kernel scans at once, and exactly as many tokens as there is room for.
TEST_P(CudaStep, ManyDocuments) {
  const int64_t D = 2100, S = 3;
  std::vector<int32_t> offsets{0}, documents, slots, lengths;
  for (int32_t d = 0; d < D; ++d) {
    lengths.push_back(1 + d % 3);
    offsets.push_back(offsets.back() + lengths.back());
    documents.push_back(d);
    slots.push_back(static_cast<int32_t>(d * S / D));
  }
  const int64_t T = offsets.back();
  const Array<int32_t> tokens(T, 7), at(offsets), entries({0, static_cast<int32_t>(D)}), entry(documents),
      of(slots), adam(S, 1), step(1, 0);
  const Array<double> rates(S, 0.5);
  const Array<float> scales(S, 0.125f);
  const Array<int32_t> token(T, -9), position(T, -9), document(D + 1, -9), segment(S + 1, -9), target(T, -9),
      active(S, -9);
  const Array<float> weight(T, -9.0f);
  const Array<double> learning_rate(S, -9.0);
  GatherStep({tokens.data(), nullptr, at.data(), entries.data(), entry.data(), of.data(), rates.data(),
              adam.data(), scales.data(), 1},
             step.data(),
             {T, D, S, token.data(), position.data(), document.data(), segment.data(), target.data(),
              weight.data(), learning_rate.data(), active.data()},
             nullptr);
  EXPECT_EQ(document.Read(), offsets);
  EXPECT_EQ(segment.Read(), (std::vector<int32_t>{0, offsets[700], offsets[1400], offsets[2100]}));
  const std::vector<int32_t> positions = position.Read(), targets = target.Read();
  for (int64_t d = 0; d < D; ++d) {
    for (int32_t i = 0; i < lengths[d]; ++i) {
      ASSERT_EQ(positions[offsets[d] + i], i);
      ASSERT_EQ(targets[offsets[d] + i], i + 1 < lengths[d] ? 7 : -1);
    }
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
