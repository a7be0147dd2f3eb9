#include "cuda/runtime/decode.h"

#include <algorithm>
#include <cmath>

namespace selfedit::cuda {
namespace {

enum Int : int64_t { kLast, kOwnLength, kFinish, kPrefixLength, kMaxTokens, kTopK, kInts };
enum Address : int64_t { kPrefixK, kPrefixV, kOwnK, kOwnV, kAddresses };

int64_t AddressOf(const at::Tensor& t) {
  return static_cast<int64_t>(reinterpret_cast<intptr_t>(t.const_data_ptr()));
}

at::Tensor StopTensor(const std::vector<int32_t>& stops) {
  at::Tensor t = at::zeros({std::max<int64_t>(1, static_cast<int64_t>(stops.size()))}, at::kInt);
  std::copy(stops.begin(), stops.end(), t.mutable_data_ptr<int32_t>());
  return t;
}

}  // namespace

DecodeStep::DecodeStep(const DeviceModel& model, FrozenDeltas& deltas, const std::vector<DeltaStack>& forks,
                       const Copies& copies, int64_t places, int64_t capacity, int64_t positions,
                       const std::vector<int32_t>& stop_tokens)
    : model_(model),
      places_(places),
      capacity_(capacity),
      positions_(positions),
      splits_(std::clamp<int64_t>(positions / 256, 1, kMostSplits)),
      stops_(static_cast<int64_t>(stop_tokens.size())),
      rows_(places),
      pass_(model, places, positions, std::nullopt),
      head_(model, places, false),
      forks_(model, deltas, forks, {places, places, 1}, copies) {
  const ModelConfig& config = model.config();
  const auto ints = model.options(at::kInt), floats = model.options(at::kFloat),
             longs = model.options(at::kLong);
  slab_ = at::zeros({config.layers, 2, places, capacity, config.kv_heads * config.head_dim}, model.options());
  pointers_host_ = at::zeros({config.layers, kAddresses, places}, at::kLong);
  pointers_ = at::zeros({config.layers, kAddresses, places}, longs);
  ints_ = at::zeros({kInts, places}, ints);
  floats_ = at::ones({2, places}, floats);
  keys_ = at::zeros({places}, longs);
  count_ = at::zeros({places}, longs);
  stop_tokens_ = cuda::Upload(StopTensor(stop_tokens), model.device());
  out_tokens_ = at::zeros({places, capacity}, ints);
  out_logprobs_ = at::zeros({places, capacity}, floats);
  tokens_ = at::zeros({places}, ints);
  positions_of_ = at::zeros({places}, ints);
  logits_ = at::zeros({places, config.vocab_size}, floats);
  token_ = at::zeros({places}, ints);
  logprob_ = at::zeros({places}, floats);
  scratch_ = at::zeros({places, config.heads, splits_, config.head_dim + 2}, floats);
  // All places are idle: this changes nothing, and starts up what a capture must not.
  Upload();
  Body();
  Synchronise();
  CheckDevice();
  graph_ = std::make_unique<Graph>();
  graph_->Capture([&] { Body(); });
}

int64_t DecodeStep::PlaceBytes(const DeviceModel& model, int64_t capacity) {
  const ModelConfig& config = model.config();
  return config.layers * 2 * capacity * config.kv_heads * config.head_dim * model.type_bytes() +
         8 * config.vocab_size + 8 * capacity;
}

void DecodeStep::SetPrompt(int64_t place, const ReadPrompt& prompt) {
  SetAddresses(place, prompt.begin.slab, prompt.begin.offset);
  if (prompt.rest.length > 0) {
    Convert(prompt.rest.slab.narrow(2, prompt.rest.offset, prompt.rest.length),
            slab_.select(2, place).narrow(2, 0, prompt.rest.length));
  }
  Convert(prompt.logits, logits_.select(0, place));
}

void DecodeStep::Free(int64_t place) { SetAddresses(place, at::Tensor(), 0); }

void DecodeStep::SetAddresses(int64_t place, const at::Tensor& slab, int64_t offset) {
  int64_t* table = pointers_host_.mutable_data_ptr<int64_t>();
  for (int64_t l = 0; l < model_.config().layers; ++l) {
    for (int64_t kv = 0; kv < 2; ++kv) {
      int64_t* prefix = table + (l * kAddresses + kPrefixK + kv) * places_ + place;
      int64_t* own = table + (l * kAddresses + kOwnK + kv) * places_ + place;
      *prefix = slab.defined() ? AddressOf(slab.select(0, l).select(0, kv).narrow(0, offset, 1)) : 0;
      *own = slab.defined() ? AddressOf(slab_.select(0, l).select(0, kv).select(0, place)) : 0;
    }
  }
}

void DecodeStep::Upload() {
  at::Tensor ints = at::zeros({kInts, places_}, at::kInt), floats = at::zeros({2, places_}, at::kFloat);
  at::Tensor keys = at::zeros({places_}, at::kLong), count = at::zeros({places_}, at::kLong);
  std::vector<int32_t> offsets{0}, fork;
  for (int64_t b = 0; b < places_; ++b) {
    const DecodeRow& row = rows_[b];
    auto set = [&](Int which, int32_t value) {
      ints.mutable_data_ptr<int32_t>()[which * places_ + b] = value;
    };
    set(kLast, row.last);
    set(kOwnLength, row.own_length);
    set(kFinish, row.finish);
    set(kPrefixLength, row.prefix_length);
    set(kMaxTokens, row.max_tokens);
    set(kTopK, row.top_k);
    floats.mutable_data_ptr<float>()[b] = row.temperature;
    floats.mutable_data_ptr<float>()[places_ + b] = row.top_p;
    keys.mutable_data_ptr<int64_t>()[b] = static_cast<int64_t>(row.key);
    count.mutable_data_ptr<int64_t>()[b] = row.count;
    offsets.push_back(static_cast<int32_t>(b) + 1);
    fork.push_back(row.fork);
  }
  UploadInto(ints, ints_);
  UploadInto(floats, floats_);
  UploadInto(keys, keys_);
  UploadInto(count, count_);
  UploadInto(pointers_host_, pointers_);
  forks_.Load(offsets, fork);
}

DecodeState DecodeStep::State() const {
  int32_t* ints = ints_.mutable_data_ptr<int32_t>();
  DecodeState state;
  state.rows = places_;
  state.last = ints + kLast * places_;
  state.own_length = ints + kOwnLength * places_;
  state.count = count_.mutable_data_ptr<int64_t>();
  state.finish = ints + kFinish * places_;
  state.prefix_length = ints + kPrefixLength * places_;
  state.max_tokens = ints + kMaxTokens * places_;
  state.max_positions = model_.config().max_positions;
  state.stop_tokens = stop_tokens_.const_data_ptr<int32_t>();
  state.stops = stops_;
  state.out_tokens = out_tokens_.mutable_data_ptr<int32_t>();
  state.out_logprobs = out_logprobs_.mutable_data_ptr<float>();
  state.out_capacity = capacity_;
  return state;
}

DecodeShape DecodeStep::Shape(int64_t layer) const {
  const ModelConfig& config = model_.config();
  const int64_t* table = pointers_.const_data_ptr<int64_t>() + layer * kAddresses * places_;
  const int32_t* ints = ints_.const_data_ptr<int32_t>();
  DecodeShape shape;
  shape.rows = places_;
  shape.H = config.heads;
  shape.G = config.kv_heads;
  shape.d = config.head_dim;
  shape.q_stride = config.heads * config.head_dim;
  shape.kv_stride = config.kv_heads * config.head_dim;
  shape.scale = static_cast<float>(config.AttentionScale());
  shape.window = config.Window(layer);
  shape.prefix_k = reinterpret_cast<const void* const*>(table + kPrefixK * places_);
  shape.prefix_v = reinterpret_cast<const void* const*>(table + kPrefixV * places_);
  shape.own_k = reinterpret_cast<void* const*>(table + kOwnK * places_);
  shape.own_v = reinterpret_cast<void* const*>(table + kOwnV * places_);
  shape.prefix_length = ints + kPrefixLength * places_;
  shape.own_length = ints + kOwnLength * places_;
  return shape;
}

void DecodeStep::Draw(int32_t appended) {
  const DecodeState state = State();
  const float* floats = floats_.const_data_ptr<float>();
  Launch(SampleRows, Type::kFloat32, logits_.const_data_ptr(), places_, model_.config().vocab_size, floats,
         floats + places_, ints_.const_data_ptr<int32_t>() + kTopK * places_,
         reinterpret_cast<const uint64_t*>(keys_.const_data_ptr<int64_t>()), state.count,
         token_.mutable_data_ptr<int32_t>(), logprob_.mutable_data_ptr<float>());
  Launch(DecodeUpdate, state, token_.const_data_ptr<int32_t>(), logprob_.const_data_ptr<float>(), appended);
}

void DecodeStep::Body() {
  int32_t* tokens = tokens_.mutable_data_ptr<int32_t>();
  int32_t* positions = positions_of_.mutable_data_ptr<int32_t>();
  const Type type = model_.type();
  Launch(DecodeInput, State(), tokens, positions);
  const Overlays overlays = forks_.overlays();
  pass_.Forward({tokens, positions, places_}, overlays, [&](const LayerAttention& a) {
    const DecodeShape shape = Shape(a.layer);
    Launch(AppendKeyValue, type, shape, a.k.const_data_ptr(), a.v.const_data_ptr());
    Launch(AttentionDecode, type, shape, a.q.const_data_ptr(), int32_t{1}, splits_,
           scratch_.mutable_data_ptr<float>(), a.out.mutable_data_ptr());
  });
  head_.Logits(pass_.hidden(), overlays, places_, logits_);
  Draw(1);
}

void DecodeStep::SampleFirst() { Draw(0); }
void DecodeStep::Run() { graph_->Replay(); }

void DecodeStep::Look() {
  Readback ints, count, tokens, logprobs;
  ints.Start(ints_);
  count.Start(count_);
  tokens.Start(out_tokens_);
  logprobs.Start(out_logprobs_);
  const at::Tensor i = ints.Wait(), c = count.Wait();
  tokens_host_ = tokens.Wait();
  logprobs_host_ = logprobs.Wait();
  CheckDevice();
  for (int64_t b = 0; b < places_; ++b) {
    DecodeRow& row = rows_[b];
    if (row.finish == kIdle) continue;
    row.last = i.const_data_ptr<int32_t>()[kLast * places_ + b];
    row.own_length = i.const_data_ptr<int32_t>()[kOwnLength * places_ + b];
    row.finish = i.const_data_ptr<int32_t>()[kFinish * places_ + b];
    row.count = c.const_data_ptr<int64_t>()[b];
  }
}

const int32_t* DecodeStep::tokens(int64_t place) const {
  return tokens_host_.const_data_ptr<int32_t>() + place * capacity_;
}
const float* DecodeStep::logprobs(int64_t place) const {
  return logprobs_host_.const_data_ptr<float>() + place * capacity_;
}

}  // namespace selfedit::cuda
