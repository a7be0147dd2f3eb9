#include "core/policy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/accelerator.h"
#include "core/finite.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/random.h"
#include "core/score.h"
#include "core/transformer.h"
#include "cpu/kernels.h"
#include "format/safetensors_writer.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

void CheckLength(const char* name, size_t found, size_t expected) {
  if (found != expected) {
    throw Error("INPUT_INVALID", std::string(name) + " has " + std::to_string(found) + " entries; expected " +
                                     std::to_string(expected) + ", one a token");
  }
}

void CheckRows(const PolicyStepSpec& spec, const ModelConfig& config, bool value_head) {
  CheckRagged(spec.rows, config, "row");
  const size_t n = spec.rows.tokens.size();
  CheckLength("actionMask", spec.action_mask.size(), n);
  CheckLength("advantages", spec.advantages.size(), n);
  if (!spec.nll || !spec.old_logprobs.empty()) CheckLength("oldLogprobs", spec.old_logprobs.size(), n);
  if (spec.kl_coefficient != 0 || !spec.reference_logprobs.empty()) {
    CheckLength("referenceLogprobs", spec.reference_logprobs.size(), n);
  }
  if (!spec.importance.empty()) CheckLength("importance", spec.importance.size(), n);
  if (!spec.returns.empty()) {
    if (!value_head) throw Error("INPUT_INVALID", "returns are given, but the policy has no value head");
    CheckLength("returns", spec.returns.size(), n);
    CheckLength("oldValues", spec.old_values.size(), n);
  }
  for (int64_t r = 0; r < spec.rows.rows(); ++r) {
    if (spec.action_mask[spec.rows.offsets[r]] != 0) {
      throw Error("INPUT_INVALID", "row " + std::to_string(r) + ": its first token cannot be an action");
    }
  }
}

void CheckNumbers(const PolicyStepSpec& spec) {
  CheckTemperature(spec.temperature, "the policy");
  // A rate that is NaN would be noticed one step late: when the values are gone.
  auto check = [](const char* name, double value, double least, bool finite) {
    if (value >= least && (!finite || std::isfinite(static_cast<float>(value)))) return;
    throw Error("OPTION_INVALID", std::string(name) + " is " + std::to_string(value) + "; expected a number" +
                                      (least == 0 ? " of at least 0" : ""));
  };
  check("clipLow", spec.clip_low, 0, false);
  check("clipHigh", spec.clip_high, 0, false);
  check("valueClip", spec.value_clip, 0, false);
  check("maxGradNorm", spec.max_grad_norm, 0, false);
  check("klCoefficient", spec.kl_coefficient, 0, true);
  check("entropyCoefficient", spec.entropy_coefficient, -std::numeric_limits<double>::max(), true);
  check("valueCoefficient", spec.value_coefficient, 0, true);
  check("learningRate", spec.learning_rate, 0, true);
  check("valueLearningRate", spec.value_learning_rate, 0, true);
  check("weightDecay", spec.weight_decay, 0, true);
  const float beta1 = static_cast<float>(spec.beta1), beta2 = static_cast<float>(spec.beta2);
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && static_cast<float>(spec.epsilon) > 0)) {
    throw Error("OPTION_INVALID", "beta1 and beta2 must lie in [0, 1), epsilon above 0");
  }
  if (!(spec.normalizer > 0)) throw Error("OPTION_INVALID", "normalizer must be above 0");
}

// Terms of one action token; returns dL/dlogprob before the division by the normalizer.
double TokenLoss(const PolicyStepSpec& spec, int64_t t, double logprob, PolicySums* sums) {
  const double advantage = spec.advantages[t];
  const double weight = spec.importance.empty() ? 1.0 : spec.importance[t];
  double g = 0;
  if (spec.nll) {
    sums->policy += -weight * advantage * logprob;
    g = -weight * advantage;
  } else {
    const double difference = logprob - spec.old_logprobs[t];
    const double ratio = std::exp(difference);
    const double bounded = std::clamp(ratio, 1.0 - spec.clip_low, 1.0 + spec.clip_high);
    const double plain = ratio * advantage, clipped = bounded * advantage;
    sums->policy += -weight * std::min(plain, clipped);
    if (plain <= clipped) g = -weight * advantage * ratio;
    sums->clipped += clipped < plain;
  }
  if (!spec.old_logprobs.empty()) {
    const double difference = logprob - spec.old_logprobs[t];
    sums->k1_old += -difference;
    sums->k3_old += std::exp(difference) - 1.0 - difference;
    sums->gap = std::max(sums->gap, std::abs(difference));
  }
  if (!spec.reference_logprobs.empty()) {
    const double difference = logprob - spec.reference_logprobs[t];
    sums->k1_ref += difference;
    sums->k3_ref += std::exp(-difference) - 1.0 + difference;
    sums->kl += spec.kl_coefficient * 0.5 * difference * difference;
    g += spec.kl_coefficient * difference;
  }
  return g;
}

// dL/dV of one action token before the division by the normalizer (clipped value loss, as in PPO's reference
// code).
double ValueLoss(const PolicyStepSpec& spec, int64_t t, double value, PolicySums* sums) {
  const double target = spec.returns[t], old = spec.old_values[t];
  const double bounded = old + std::clamp(value - old, -spec.value_clip, spec.value_clip);
  const double plain = (value - target) * (value - target);
  const double clipped = (bounded - target) * (bounded - target);
  // Not std::max, which drops a NaN on its right.
  sums->value += spec.value_coefficient * 0.5 * (plain >= clipped ? plain : clipped);
  sums->returns += target;
  sums->returns2 += target * target;
  sums->error += target - value;
  sums->error2 += (target - value) * (target - value);
  if (plain >= clipped) return spec.value_coefficient * (value - target);
  return std::abs(value - old) < spec.value_clip ? spec.value_coefficient * (bounded - target) : 0.0;
}

// w . h + b of each row, added up in one order: a library's product would choose it by the number of rows,
// and a row's value would depend on what else is in the batch. Float64.
template <typename T>
void RowValues(const at::Tensor& hidden, const at::Tensor& value, double* out) {
  const int64_t c = hidden.size(1);
  const T* h = hidden.const_data_ptr<T>();
  const T* w = value.const_data_ptr<T>();
  for (int64_t r = 0; r < hidden.size(0); ++r) {
    double sum = w[c];
    for (int64_t i = 0; i < c; ++i) sum += static_cast<double>(w[i]) * static_cast<double>(h[r * c + i]);
    out[r] = sum;
  }
}

at::Tensor ValuesOf(const at::Tensor& given, const at::Tensor& value) {
  const at::Tensor hidden = given.to(value.scalar_type()).contiguous();
  at::Tensor values = at::empty({hidden.size(0)}, at::kDouble);
  double* out = values.mutable_data_ptr<double>();
  if (value.scalar_type() == at::kDouble) {
    RowValues<double>(hidden, value, out);
  } else {
    RowValues<float>(hidden, value, out);
  }
  return values;
}

// gradient += sum_r dvalue_r (h_r, 1), row by row.
template <typename T>
void AddValueGradient(const at::Tensor& given, const std::vector<int64_t>& rows,
                      const std::vector<double>& dvalue, const at::Tensor& gradient) {
  const at::Tensor hidden = given.to(gradient.scalar_type()).contiguous();
  const int64_t c = hidden.size(1);
  std::vector<double> sum(static_cast<size_t>(c) + 1, 0.0);
  for (size_t r = 0; r < rows.size(); ++r) {
    const T* h = hidden.const_data_ptr<T>() + rows[r] * c;
    for (int64_t i = 0; i < c; ++i) sum[i] += dvalue[r] * static_cast<double>(h[i]);
    sum[c] += dvalue[r];
  }
  T* out = gradient.mutable_data_ptr<T>();
  for (int64_t i = 0; i <= c; ++i) out[i] = static_cast<T>(out[i] + sum[i]);
}

void MoveByAdamW(const at::Tensor& value, const at::Tensor& first, const at::Tensor& second,
                 const at::Tensor& gradient, const cpu::AdamWStep& step) {
  if (value.scalar_type() == at::kDouble) {
    cpu::AdamW<double>(value.mutable_data_ptr<double>(), first.mutable_data_ptr<double>(),
                       second.mutable_data_ptr<double>(), gradient.const_data_ptr<double>(), step);
  } else {
    cpu::AdamW<float>(value.mutable_data_ptr<float>(), first.mutable_data_ptr<float>(),
                      second.mutable_data_ptr<float>(), gradient.const_data_ptr<float>(), step);
  }
}

PolicyStepStats Summarise(const PolicySums& s, const PolicyStepSpec& spec, bool value_head) {
  PolicyStepStats stats;
  const double n = std::max<double>(1, s.tokens), z = spec.normalizer;
  stats.tokens = static_cast<int64_t>(s.tokens);
  stats.policy_loss = s.policy / z;
  stats.kl_loss = s.kl / z;
  stats.value_loss = s.value / z;
  stats.entropy = s.entropy / n;
  stats.loss = (s.policy + s.kl + s.value - spec.entropy_coefficient * s.entropy) / z;
  stats.kl_reference_1 = s.k1_ref / n;
  stats.kl_reference_3 = s.k3_ref / n;
  stats.kl_old_1 = s.k1_old / n;
  stats.kl_old_3 = s.k3_old / n;
  stats.clip_fraction = s.clipped / n;
  stats.max_logprob_gap = s.gap;
  stats.explained_variance = std::numeric_limits<double>::quiet_NaN();
  if (value_head) {  // without returns there is no variance either
    const double variance = s.returns2 / n - (s.returns / n) * (s.returns / n);
    const double rest = s.error2 / n - (s.error / n) * (s.error / n);
    if (variance > 0) stats.explained_variance = 1.0 - rest / variance;
  }
  return stats;
}

}  // namespace

Policy::Policy(std::shared_ptr<Model> model, const PolicySpec& spec)
    : model_(std::move(model)), delta_(*model_, spec.matrices, spec.rank, spec.alpha) {
  delta_.Initialise(DeriveKey(spec.key, "policy", {}));
  if (!std::isfinite(spec.value_bias)) throw Error("OPTION_INVALID", "valueBias is not finite");
  if (spec.value_head) {
    value_ = at::zeros({model_->config().hidden_size + 1}, model_->options());
    value_.narrow(0, model_->config().hidden_size, 1).fill_(spec.value_bias);
    value_gradient_ = at::zeros_like(value_);
    value_first_ = at::zeros_like(value_);
    value_second_ = at::zeros_like(value_);
  }
}

namespace {
// Tokens of the largest batch that PackRows can make.
int64_t MostTokens(const Ragged& rows, int64_t most) {
  int64_t tokens = std::min<int64_t>(most, static_cast<int64_t>(rows.tokens.size()));
  for (int64_t r = 0; r < rows.rows(); ++r) tokens = std::max(tokens, rows.length(r));
  return tokens;
}
}  // namespace

namespace {
DType DTypeOf(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32;
}
}  // namespace
std::vector<double> PolicySums::List() const {
  return {policy,  kl,      value,    entropy, k1_ref, k3_ref, k1_old, k3_old,
          clipped, returns, returns2, error,   error2, tokens, gap};
}

PolicySums PolicySums::From(const std::vector<double>& list) {
  if (list.size() != kCount) {
    throw Error("INPUT_INVALID", "there are " + std::to_string(list.size()) +
                                     " sums of a policy step; expected " + std::to_string(kCount));
  }
  PolicySums sums;
  double* const fields[] = {&sums.policy,   &sums.kl,     &sums.value,  &sums.entropy, &sums.k1_ref,
                            &sums.k3_ref,   &sums.k1_old, &sums.k3_old, &sums.clipped, &sums.returns,
                            &sums.returns2, &sums.error,  &sums.error2, &sums.tokens,  &sums.gap};
  for (size_t i = 0; i < kCount; ++i) *fields[i] = list[i];
  return sums;
}

PolicyStepStats Policy::Step(const PolicyStepSpec& spec, const JobControl& control) {
  return Apply(spec, Accumulate(spec, control));
}

PolicySums Policy::Accumulate(const PolicyStepSpec& spec, const JobControl& control) {
  CheckNumbers(spec);
  if (spec.rows.rows() == 0) {
    delta_.ZeroGradient();
    if (has_value_head()) value_gradient_.zero_();
    return {};
  }
  CheckRows(spec, model_->config(), has_value_head());
  const int64_t most = spec.max_batch_tokens > 0 ? spec.max_batch_tokens : kDefaultBatchTokens;
  const DeltaStack nothing;
  PolicySums sums;
  const auto pass = [&](int64_t tokens_at_once) {
    // Sums and gradients add up over batches: an attempt begins at zero.
    sums = PolicySums();
    delta_.ZeroGradient();
    if (has_value_head()) value_gradient_.zero_();
    std::unique_ptr<DeviceTraining> device;
    if (OnDevice(*model_))
      device = CudaAccelerator().train(*model_, delta_, MostTokens(spec.rows, tokens_at_once));
    for (const auto& indices :
         PackRows(spec.rows, std::vector<int32_t>(spec.rows.rows(), 0), tokens_at_once)) {
      control.Check();
      const Ragged batch = GatherRows(spec.rows, indices);
      std::vector<int64_t> source;  // token of the batch -> token of the specification
      for (const int64_t row : indices) {
        for (int64_t t = spec.rows.offsets[row]; t < spec.rows.offsets[row + 1]; ++t) source.push_back(t);
      }
      const HeadRows rows =
          NextTokenRows(batch, [&](int64_t token) { return spec.action_mask[source[token]] != 0; });
      sums.tokens += static_cast<double>(rows.size());
      const bool entropy = spec.entropy_coefficient != 0 || !spec.old_logprobs.empty();
      const auto loss = [&](int64_t begin, int64_t n, const double* logprob, const double* entropies,
                            double* g, double* e) {
        for (int64_t i = 0; i < n; ++i) {
          const int64_t token = source[rows.row[begin + i] + 1];
          g[i] = TokenLoss(spec, token, logprob[i], &sums) / spec.normalizer;
          if (entropy) {
            sums.entropy += entropies[i];
            e[i] = -spec.entropy_coefficient / spec.normalizer;
          }
        }
      };
      const bool wants_values = has_value_head() && !spec.returns.empty();
      at::Tensor hidden;
      if (device) {
        device->Backward(batch, rows, spec.temperature, entropy, loss, wants_values ? &hidden : nullptr);
      } else {
        const std::vector<DocumentDeltas> deltas(indices.size(), DocumentDeltas{&nothing, &delta_.view()});
        const OverlayPlan plan = MakeOverlayPlan(*model_, batch.offsets, deltas);
        RaggedAttention attention(model_->config(), batch.offsets);
        const at::Tensor positions = PositionTensor(batch.offsets);
        Tape tape;
        const at::Tensor tokens = TokenTensor(batch);
        hidden = TransformerForward(*model_, tokens, positions, plan, attention, &tape);
        const at::Tensor dhidden = HeadBackward(*model_, plan, hidden, rows, spec.temperature, entropy, loss);
        TransformerBackward(*model_, tokens, positions, plan, attention, tape, dhidden);
      }
      if (wants_values) {
        // The trunk is detached: only the head learns from the values.
        const at::Tensor values = ValuesOf(hidden, value_);
        std::vector<int64_t> at_rows(rows.row.begin(), rows.row.end());
        std::vector<double> dvalue;
        for (const int64_t row : at_rows) {
          dvalue.push_back(ValueLoss(spec, source[row + 1], values.const_data_ptr<double>()[row], &sums) /
                           spec.normalizer);
        }
        if (value_gradient_.scalar_type() == at::kDouble) {
          AddValueGradient<double>(hidden, at_rows, dvalue, value_gradient_);
        } else {
          AddValueGradient<float>(hidden, at_rows, dvalue, value_gradient_);
        }
      }
    }
    if (device) device->AddGradient(&delta_);
  };
  WithHalving(most, control, "policy step", pass);
  return sums;
}

PolicyStepStats Policy::Apply(const PolicyStepSpec& spec, const PolicySums& sums) {
  CheckNumbers(spec);
  PolicyStepStats stats = Summarise(sums, spec, has_value_head());
  stats.grad_norm = delta_.gradient().to(at::kDouble).norm().item<double>();
  const double value_norm = has_value_head() ? value_gradient_.to(at::kDouble).norm().item<double>() : 0.0;
  if (!std::isfinite(stats.loss) || !std::isfinite(stats.grad_norm) || !std::isfinite(value_norm)) {
    throw Error("LOSS_NOT_FINITE", "policy step " + std::to_string(steps_ + 1) + ": loss " +
                                       std::to_string(stats.loss) + ", gradient norm " +
                                       std::to_string(stats.grad_norm) + "; the policy was not changed");
  }
  if (spec.dry_run) return stats;
  Move(spec);
  return stats;
}

void Policy::Move(const PolicyStepSpec& spec) {
  // All that may fail for want of memory comes before the first change.
  delta_.BeforeWrite();
  std::vector<at::Tensor> state{delta_.values(), delta_.first_moment(), delta_.second_moment()};
  if (has_value_head()) state.insert(state.end(), {value_, value_first_, value_second_});
  std::vector<at::Tensor> before;
  for (const at::Tensor& tensor : state) before.push_back(tensor.clone());
  cpu::AdamWStep step;
  step.count = delta_.count();
  step.learning_rate = spec.learning_rate;
  step.beta1 = spec.beta1;
  step.beta2 = spec.beta2;
  step.epsilon = spec.epsilon;
  step.weight_decay = spec.weight_decay;
  step.clip = spec.max_grad_norm;
  step.step = steps_ + 1 - optimizer_start_;
  MoveByAdamW(state[0], state[1], state[2], delta_.gradient(), step);
  if (has_value_head()) {
    step.count = value_.numel();
    step.learning_rate = spec.value_learning_rate;
    step.weight_decay = 0;
    step.clip = 0;
    MoveByAdamW(state[3], state[4], state[5], value_gradient_, step);
  }
  // Squares of large gradients and steps of large rates leave the finite numbers; nothing comes back from
  // there.
  for (const at::Tensor& tensor : state) {
    if (AllFinite(DTypeOf(tensor), tensor.const_data_ptr(), tensor.numel())) continue;
    for (size_t i = 0; i < state.size(); ++i) {
      const size_t bytes = state[i].nbytes();
      std::memcpy(state[i].mutable_data_ptr(), before[i].const_data_ptr(), bytes);
    }
    throw Error("LOSS_NOT_FINITE", "policy step " + std::to_string(steps_ + 1) +
                                       ": the values or moments after it are not finite; lower the learning "
                                       "rate; the policy was not changed");
  }
  ++steps_;
}

std::vector<double> Policy::Values(const Ragged& all, const JobControl& control) {
  CheckRagged(all, model_->config(), "row");
  if (!has_value_head()) throw Error("OPTION_INVALID", "the policy was made without a value head");
  std::vector<double> result(all.tokens.size(), std::numeric_limits<double>::quiet_NaN());
  const DeltaStack stack{{Snapshot(), 1.0}};
  for (const auto& indices : PackRows(all, std::vector<int32_t>(all.rows(), 0), kDefaultBatchTokens)) {
    control.Check();
    const Ragged batch = GatherRows(all, indices);
    const at::Tensor values = ValuesOf(HiddenStates(*model_, batch, stack), value_);
    int64_t next = 0;
    for (const int64_t row : indices) {
      for (int64_t i = 0; i < all.length(row); ++i, ++next) {
        if (i > 0) result[all.offsets[row] + i] = values.const_data_ptr<double>()[next - 1];
      }
    }
  }
  return result;
}

namespace {
void AppendTo(std::vector<double>* out, const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  out->insert(out->end(), wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel());
}
}  // namespace

std::vector<double> Policy::Parameters() const {
  std::vector<double> all;
  AppendTo(&all, delta_.values());
  AppendTo(&all, value_);
  return all;
}

std::vector<double> Policy::Gradients() const {
  std::vector<double> all;
  AppendTo(&all, delta_.gradient());
  AppendTo(&all, value_gradient_);
  return all;
}

void Policy::SetParameters(const std::vector<double>& values) {
  const int64_t count = delta_.count() + (has_value_head() ? value_.numel() : 0);
  if (static_cast<int64_t>(values.size()) != count) {
    throw Error("INPUT_INVALID", "there are " + std::to_string(values.size()) +
                                     " parameters; the policy has " + std::to_string(count));
  }
  delta_.BeforeWrite();
  at::Tensor all = at::empty({count}, at::kDouble);
  std::copy(values.begin(), values.end(), all.mutable_data_ptr<double>());
  delta_.values().copy_(all.narrow(0, 0, delta_.count()));
  if (has_value_head()) value_.copy_(all.narrow(0, delta_.count(), value_.numel()));
}

namespace {
struct StateTensor {
  const char* name;
  at::Tensor tensor;
};
}  // namespace

void Policy::ResetOptimizer() {
  for (const at::Tensor& moment :
       {delta_.first_moment(), delta_.second_moment(), value_first_, value_second_}) {
    if (moment.defined()) moment.zero_();
  }
  optimizer_start_ = steps_;
}

void Policy::Save(const std::string& path) {
  const DType dtype = model_->activation() == at::kDouble ? DType::kF64 : DType::kF32;
  std::vector<StateTensor> state{{"values", delta_.values()},
                                 {"first_moment", delta_.first_moment()},
                                 {"second_moment", delta_.second_moment()}};
  if (has_value_head()) {
    state.push_back({"value_head", value_});
    state.push_back({"value_head.first_moment", value_first_});
    state.push_back({"value_head.second_moment", value_second_});
  }
  std::vector<TensorToWrite> tensors;
  for (const StateTensor& s : state)
    tensors.push_back({s.name, dtype, s.tensor.sizes().vec(), s.tensor.const_data_ptr()});
  WriteSafetensors(path, tensors,
                   {{"format", "selfedit-policy-1"},
                    {"steps", std::to_string(steps_)},
                    {"optimizer_start", std::to_string(optimizer_start_)}});
}

void Policy::Load(const std::string& path) {
  const auto file = TensorFile::Open(path, Format::kSafetensors);
  if (file->MetadataString("format") != "selfedit-policy-1") {
    throw Error("FILE_FORMAT",
                path + ": not a policy checkpoint (metadata \"format\" is not selfedit-policy-1)");
  }
  const DType dtype = model_->activation() == at::kDouble ? DType::kF64 : DType::kF32;
  auto read = [&](const char* name, const at::Tensor& like) {
    const TensorInfo* info = file->Find(name);
    if (info == nullptr) throw Error("TENSOR_MISSING", path + ": \"" + name + "\" is missing");
    if (info->dtype != dtype || info->shape != like.sizes().vec()) {
      throw Error("TENSOR_SHAPE", path + ": \"" + name + "\" has " + std::to_string(info->Elements()) +
                                      " values, this policy has " + std::to_string(like.numel()));
    }
    at::Tensor tensor = at::empty_like(like);
    std::copy_n(file->Data(*info), info->bytes, static_cast<uint8_t*>(tensor.mutable_data_ptr()));
    return tensor;
  };
  const at::Tensor values = read("values", delta_.values());
  const at::Tensor first = read("first_moment", delta_.first_moment());
  const at::Tensor second = read("second_moment", delta_.second_moment());
  at::Tensor value, value_first, value_second;
  if (has_value_head()) {
    value = read("value_head", value_);
    value_first = read("value_head.first_moment", value_first_);
    value_second = read("value_head.second_moment", value_second_);
  }
  auto count = [&](const char* name, const char* absent) {
    const std::string text = file->MetadataString(name).value_or(absent);
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 15) {
      throw Error("FILE_FORMAT", path + ": metadata \"" + name + "\" is not a number");
    }
    return static_cast<int64_t>(std::stoll(text));
  };
  const int64_t steps = count("steps", ""), optimizer_start = count("optimizer_start", "0");
  if (optimizer_start > steps) {
    throw Error("FILE_FORMAT", path + ": metadata \"optimizer_start\" is beyond \"steps\"");
  }
  // All was read and checked: only now does the policy change.
  delta_.BeforeWrite();
  delta_.values().copy_(values);
  delta_.first_moment().copy_(first);
  delta_.second_moment().copy_(second);
  if (has_value_head()) {
    value_.copy_(value);
    value_first_.copy_(value_first);
    value_second_.copy_(value_second);
  }
  steps_ = steps;
  optimizer_start_ = optimizer_start;
}

}  // namespace selfedit
