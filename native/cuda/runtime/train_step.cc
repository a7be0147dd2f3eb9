#include "cuda/runtime/train_step.h"

namespace selfedit::cuda {

TrainStep::TrainStep(const DeviceModel& model, const Schedule& schedule, const std::vector<StepSize>& sizes,
                     int64_t longest, SlotDeltas& deltas, FrozenStacks& frozen)
    : model_(model),
      schedule_(schedule),
      sizes_(sizes),
      deltas_(deltas),
      frozen_(frozen),
      pass_(model, sizes.front().tokens, longest, deltas.lowest()),
      head_(model, DeviceHead::DefaultChunk(model, sizes.front().tokens), true),
      graphs_(sizes.size()) {
  const int64_t T = sizes.front().tokens, D = sizes.front().documents, S = deltas.slots();
  const auto ints = model.options(at::kInt), floats = model.options(at::kFloat);
  tokens_ = at::zeros({T}, ints);
  positions_ = at::zeros({T}, ints);
  document_offsets_ = at::zeros({D + 1}, ints);
  segment_offsets_ = at::zeros({S + 1}, ints);
  target_ = at::zeros({T}, ints);
  weight_ = at::zeros({T}, floats);
  learning_rate_ = at::zeros({S}, model.options(at::kDouble));
  adam_step_ = at::zeros({S}, ints);
  logprob_ = at::zeros({T}, floats);
  loss_ = at::zeros({schedule.steps, S}, floats);
  deltas_.SetSegments(segment_offsets_.const_data_ptr<int32_t>());
  frozen_.SetSegments(segment_offsets_.const_data_ptr<int32_t>());
  // A step behind the schedule's end is an empty batch that changes nothing: it starts up what a product of
  // this shape starts up at its first call, which a capture must not do.
  step_ = at::full({1}, schedule.steps, ints);
  for (const StepSize& size : sizes_) Body(size);
  Fill(step_, 0);
  Synchronise();
  CheckDevice();
}

int64_t TrainStep::TokenBytes(const DeviceModel& model, int64_t recorded_layers) {
  // Tokens, positions, targets, weights, log-probs, and at most one document a token.
  return Pass::Bytes(model, 1, recorded_layers) + 28;
}

int64_t TrainStep::FixedBytes(const DeviceModel& model, int64_t tokens, int64_t slots) {
  return DeviceHead::Bytes(model, DeviceHead::DefaultChunk(model, tokens)) + 16 * slots;
}

StepBatch TrainStep::BatchOf(const StepSize& size) const {
  StepBatch batch;
  batch.tokens_capacity = size.tokens;
  batch.documents_capacity = size.documents;
  batch.slots = deltas_.slots();
  batch.tokens = tokens_.mutable_data_ptr<int32_t>();
  batch.positions = positions_.mutable_data_ptr<int32_t>();
  batch.document_offsets = document_offsets_.mutable_data_ptr<int32_t>();
  batch.segment_offsets = segment_offsets_.mutable_data_ptr<int32_t>();
  batch.target = target_.mutable_data_ptr<int32_t>();
  batch.weight = weight_.mutable_data_ptr<float>();
  batch.learning_rate = learning_rate_.mutable_data_ptr<double>();
  batch.adam_step = adam_step_.mutable_data_ptr<int32_t>();
  return batch;
}

void TrainStep::Body(const StepSize& size) {
  const StepBatch batch = BatchOf(size);
  int32_t* step = step_.mutable_data_ptr<int32_t>();
  float* logprob = logprob_.mutable_data_ptr<float>();
  Launch(GatherStep, schedule_, step, batch);
  const RowBatch rows{batch.tokens, batch.positions, size.tokens};
  Overlays overlays = frozen_.For(size.tokens);
  overlays.push_back(&deltas_);
  const AttentionShape shape = pass_.Shape(batch.document_offsets, size.documents, size.tokens);
  pass_.Forward(rows, overlays, [&](const LayerAttention& a) { pass_.Attend(shape, a); });
  head_.CrossEntropy(pass_.hidden(), overlays, batch.target, batch.weight, size.tokens, logprob,
                     pass_.dhidden());
  pass_.Backward(rows, overlays, shape);
  deltas_.Step(batch.learning_rate, batch.adam_step);
  Launch(SlotLoss, Segments{batch.segment_offsets, batch.slots, size.tokens}, batch.weight, logprob, step,
         schedule_.steps, loss_.mutable_data_ptr<float>());
  Launch(AdvanceStep, step);
}

void TrainStep::Run(size_t size) {
  if (!graphs_[size]) {
    graphs_[size] = std::make_unique<Graph>();
    graphs_[size]->Capture([&] { Body(sizes_[size]); });
  }
  graphs_[size]->Replay();
}

}  // namespace selfedit::cuda
