// Slow twin of kernels/step.cu and of common.cu.
#include <algorithm>

#include "cuda/twins/host.h"

namespace selfedit::cuda {

const char* TakeError() { return nullptr; }

void GatherStep(const Schedule& schedule, const int32_t* step, const StepBatch& batch, Stream) {
  const int64_t now = step[0], S = batch.slots;
  const bool ended = now >= schedule.steps;
  const int32_t first = ended ? 0 : schedule.step_entries[now];
  const int32_t last = ended ? 0 : schedule.step_entries[now + 1];
  for (int64_t t = 0; t < batch.tokens_capacity; ++t) {
    batch.tokens[t] = batch.positions[t] = 0;
    batch.target[t] = -1;
    batch.weight[t] = 0;
  }
  for (int64_t s = 0; s <= S; ++s) batch.segment_offsets[s] = 0;
  int32_t row = 0;
  batch.document_offsets[0] = 0;
  for (int64_t d = 0; d < batch.documents_capacity; ++d) {
    if (first + d < last) {
      const int32_t document = schedule.entry_document[first + d], slot = schedule.entry_slot[first + d];
      const int32_t begin = schedule.document_offsets[document],
                    end = schedule.document_offsets[document + 1];
      for (int32_t i = begin; i < end; ++i, ++row) {
        batch.tokens[row] = schedule.tokens[i];
        batch.positions[row] = i - begin;
        if (i + 1 < end && (schedule.loss_mask == nullptr || schedule.loss_mask[i + 1] != 0)) {
          batch.target[row] = schedule.tokens[i + 1];
          batch.weight[row] = schedule.loss_scale[now * S + slot];
        }
      }
      for (int64_t s = slot + 1; s <= S; ++s) batch.segment_offsets[s] = row;
    }
    batch.document_offsets[d + 1] = row;
  }
  for (int64_t s = 0; s < S; ++s) {
    batch.learning_rate[s] = ended ? 0 : schedule.learning_rate[now * S + s];
    batch.adam_step[s] = ended ? 0 : schedule.adam_step[now * S + s];
  }
}

void ClipSegments(const Segments& segments, int64_t begin, int64_t count, int32_t* offsets, Stream) {
  for (int64_t s = 0; s <= segments.slots; ++s) {
    offsets[s] = static_cast<int32_t>(std::clamp<int64_t>(segments.offsets[s] - begin, 0, count));
  }
}

void AdvanceStep(int32_t* step, Stream) { step[0] += 1; }

}  // namespace selfedit::cuda
