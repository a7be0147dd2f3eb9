// A training step's batch, read from the schedule on the device: offsets by one block, then rows in parallel.
#include "common.cuh"

namespace selfedit::cuda {
namespace {

constexpr int kOffsetThreads = 1024, kRowThreads = 256;

// Inclusive sum over a block of kOffsetThreads.
__device__ int32_t BlockScan(int32_t x) {
  __shared__ int32_t parts[kOffsetThreads / 32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, x, step);
    if (lane >= step) x += other;
  }
  __syncthreads();
  if (lane == 31) parts[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; ++w) x += parts[w];
  return x;
}

// The entries of this step: none once the schedule has ended.
__device__ void EntriesOf(const Schedule& schedule, int64_t step, int32_t* first, int32_t* last) {
  const bool ended = step >= schedule.steps;
  *first = ended ? 0 : schedule.step_entries[step];
  *last = ended ? 0 : schedule.step_entries[step + 1];
}

__global__ void __launch_bounds__(kOffsetThreads)
    OffsetsKernel(Schedule schedule, const int32_t* step, StepBatch batch) {
  __shared__ int32_t carried;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int64_t now = step[0];
  int32_t first, last;
  EntriesOf(schedule, now, &first, &last);
  const int32_t D = static_cast<int32_t>(batch.documents_capacity), S = static_cast<int32_t>(batch.slots);
  if (thread == 0) {
    carried = 0;
    batch.document_offsets[0] = 0;
  }
  __syncthreads();
  for (int32_t base = 0; base < D; base += kOffsetThreads) {
    const int32_t d = base + thread;
    int32_t length = 0;
    if (d < D && first + d < last) {
      const int32_t document = schedule.entry_document[first + d];
      length = schedule.document_offsets[document + 1] - schedule.document_offsets[document];
    }
    const int32_t before = carried, sum = BlockScan(length);
    if (d < D) batch.document_offsets[d + 1] = before + sum;
    __syncthreads();
    if (thread == kOffsetThreads - 1) carried = before + sum;
    __syncthreads();
  }
  // document_offsets is complete and visible to this block.
  for (int32_t s = thread; s <= S; s += kOffsetThreads) {
    int32_t low = first, high = last;  // first entry of slot s or above
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (schedule.entry_slot[middle] < s) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    batch.segment_offsets[s] = batch.document_offsets[low - first];
    if (s < S) {
      const bool ended = now >= schedule.steps;
      batch.learning_rate[s] = ended ? 0 : schedule.learning_rate[now * S + s];
      batch.adam_step[s] = ended ? 0 : schedule.adam_step[now * S + s];
    }
  }
}

__global__ void __launch_bounds__(kRowThreads)
    RowsKernel(Schedule schedule, const int32_t* step, StepBatch batch) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (t >= batch.tokens_capacity) return;
  const int32_t D = static_cast<int32_t>(batch.documents_capacity);
  int32_t token = 0, position = 0, target = -1;
  float weight = 0;
  if (t < batch.document_offsets[D]) {
    int32_t first, last;
    EntriesOf(schedule, step[0], &first, &last);
    const int32_t d = OwnerOf(batch.document_offsets, D, static_cast<int32_t>(t));
    const int32_t document = schedule.entry_document[first + d];
    position = static_cast<int32_t>(t) - batch.document_offsets[d];
    const int32_t from = schedule.document_offsets[document] + position;
    token = schedule.tokens[from];
    if (from + 1 < schedule.document_offsets[document + 1] &&
        (schedule.loss_mask == nullptr || schedule.loss_mask[from + 1] != 0)) {
      target = schedule.tokens[from + 1];
      weight = schedule.loss_scale[step[0] * batch.slots + schedule.entry_slot[first + d]];
    }
  }
  batch.tokens[t] = token;
  batch.positions[t] = position;
  batch.target[t] = target;
  batch.weight[t] = weight;
}

__global__ void __launch_bounds__(kRowThreads)
    ClipKernel(Segments segments, int32_t begin, int32_t count, int32_t* offsets) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (s <= segments.slots) offsets[s] = min(max(segments.offsets[s] - begin, 0), count);
}

__global__ void AdvanceKernel(int32_t* step) { step[0] += 1; }

}  // namespace

void GatherStep(const Schedule& schedule, const int32_t* step, const StepBatch& batch, Stream stream) {
  Launch(OffsetsKernel, dim3(1), kOffsetThreads, 0, stream, schedule, step, batch);
  Launch(RowsKernel, dim3(Blocks(batch.tokens_capacity, kRowThreads)), kRowThreads, 0, stream, schedule, step,
         batch);
}

void ClipSegments(const Segments& segments, int64_t begin, int64_t count, int32_t* offsets, Stream stream) {
  Launch(ClipKernel, dim3(Blocks(segments.slots + 1, kRowThreads)), kRowThreads, 0, stream, segments,
         static_cast<int32_t>(begin), static_cast<int32_t>(count), offsets);
}

void AdvanceStep(int32_t* step, Stream stream) { Launch(AdvanceKernel, dim3(1), 1, 0, stream, step); }

}  // namespace selfedit::cuda
