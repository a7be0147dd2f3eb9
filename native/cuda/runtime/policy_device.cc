// The policy's gradient on a device. The loss of a token is the host's (core/policy.cc, one place for all its
// terms): log-probs come back once a batch, their gradients go up, the logits are made again.
#include "cuda/runtime/calls.h"
#include "cuda/runtime/row_pass.h"
#include "cuda/runtime/slot_deltas.h"

namespace selfedit::cuda {
namespace {

class Training : public DeviceTraining {
 public:
  Training(const DeviceModel& model, TrainableDelta& delta, int64_t batch_tokens)
      : model_(model),
        like_(*delta.Share()),
        capacity_(CapacityOf(batch_tokens)),
        deltas_(model, Widest(PartsOf(like_)), 1, capacity_.tokens, SlotDeltas::Keep::kValues, nullptr),
        pass_(model, capacity_, deltas_.lowest()),
        head_(model, DeviceHead::DefaultChunk(model, capacity_.tokens), true) {
    const auto floats = model.options(at::kFloat);
    for (at::Tensor* t : {&logprob_, &lse_, &entropy_, &g_, &e_}) *t = at::zeros({capacity_.tokens}, floats);
    segment_ = at::zeros({2}, model.options(at::kInt));
    deltas_.SetSegments(segment_.const_data_ptr<int32_t>());
    deltas_.SetAccumulate(true);
    deltas_.Start(0, like_, {});
    deltas_.Upload();
  }

  void Backward(const Ragged& batch, const HeadRows& rows, double temperature, bool entropy,
                const HeadLoss& loss, at::Tensor* hidden) override {
    const DeviceScope scope(model_.device());
    const int64_t T = capacity_.tokens, n = rows.size();
    std::vector<int32_t> target(batch.tokens.size(), -1);
    for (int64_t i = 0; i < n; ++i) target[rows.row[i]] = rows.target[i];
    pass_.Load(batch, target);
    at::Tensor segment = at::zeros({2}, at::kInt);
    segment.mutable_data_ptr<int32_t>()[1] = batch.offsets.back();
    UploadInto(segment, segment_);
    const Overlays overlays{&deltas_};
    pass_.Forward(overlays);
    const float narrow = static_cast<float>(temperature);
    float* entropies = entropy ? entropy_.mutable_data_ptr<float>() : nullptr;
    head_.Logprobs(pass_.pass().hidden(), overlays, pass_.target(), T, narrow,
                   logprob_.mutable_data_ptr<float>(), lse_.mutable_data_ptr<float>(), entropies);
    std::vector<double> g(n, 0.0), e(n, 0.0);
    const std::vector<double> logprob = Pick(logprob_, rows);
    const std::vector<double> chosen = entropy ? Pick(entropy_, rows) : std::vector<double>();
    loss(0, n, logprob.data(), entropy ? chosen.data() : nullptr, g.data(), e.data());
    Place(g, rows, g_);
    if (entropy) Place(e, rows, e_);
    head_.LogprobsBackward(pass_.pass().hidden(), overlays, pass_.target(), lse_.const_data_ptr<float>(),
                           g_.const_data_ptr<float>(), entropy ? e_.const_data_ptr<float>() : nullptr,
                           entropies, T, narrow, pass_.pass().dhidden());
    pass_.pass().Backward(pass_.rows(), overlays, pass_.shape());
    if (hidden == nullptr) return;
    Readback readback;
    readback.Start(pass_.pass().hidden());
    *hidden = readback.Wait().narrow(0, 0, batch.offsets.back()).to(at::kFloat);
  }

  void AddGradient(TrainableDelta* delta) override {
    const DeviceScope scope(model_.device());
    const DeltaPtr gradient = deltas_.TakeGradient(0, like_);
    const DeltaPtr into = delta->ShareGradient();
    for (size_t i = 0; i < into->parts.size(); ++i) {
      const std::vector<at::Tensor> to = into->parts[i].trainable(), from = gradient->parts[i].trainable();
      for (size_t t = 0; t < to.size(); ++t) to[t].add_(from[t].cpu());
    }
    CheckDevice();
  }

 private:
  static BatchCapacity CapacityOf(int64_t tokens) {
    BatchCapacity capacity;
    capacity.tokens = (tokens + 15) / 16 * 16;
    capacity.rows = capacity.longest = tokens;
    return capacity;
  }
  static std::vector<double> Pick(const at::Tensor& numbers, const HeadRows& rows) {
    Readback readback;
    readback.Start(numbers);
    const at::Tensor host = readback.Wait();
    CheckDevice();
    std::vector<double> picked;
    for (const int64_t row : rows.row) picked.push_back(host.const_data_ptr<float>()[row]);
    return picked;
  }
  static void Place(const std::vector<double>& values, const HeadRows& rows, const at::Tensor& to) {
    at::Tensor host = at::zeros(to.sizes(), at::kFloat);
    for (size_t i = 0; i < values.size(); ++i) {
      host.mutable_data_ptr<float>()[rows.row[i]] = static_cast<float>(values[i]);
    }
    UploadInto(host, to);
  }

  const DeviceModel& model_;
  const Delta like_;  // shapes and scales; its values move on with the policy
  BatchCapacity capacity_;
  SlotDeltas deltas_;
  RowPass pass_;
  DeviceHead head_;
  at::Tensor logprob_, lse_, entropy_, g_, e_, segment_;
};

}  // namespace

std::unique_ptr<DeviceTraining> Train(const DeviceModel& model, TrainableDelta& delta, int64_t batch_tokens) {
  const DeviceScope scope(model.device());
  return std::make_unique<Training>(model, delta, batch_tokens);
}

}  // namespace selfedit::cuda
