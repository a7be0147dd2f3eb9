#include "core/edit_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/finite.h"
#include "core/host_delta.h"
#include "core/philox.h"
#include "core/random.h"
#include "core/score.h"
#include "core/svd.h"
#include "cpu/kernels.h"
#include "format/safetensors_writer.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

constexpr double kFirstNoise = 0.05;  // relative units; calibration replaces it
const char* const kFormat = "selfedit-edit-head-1";

void CheckLength(const char* name, size_t found, int64_t expected) {
  if (static_cast<int64_t>(found) == expected) return;
  throw Error("INPUT_INVALID", std::string(name) + " has " + std::to_string(found) + " entries; expected " +
                                   std::to_string(expected));
}

void CheckNumbers(const char* name, const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    throw Error("INPUT_INVALID", std::string(name) + ", entry " + std::to_string(i) + " is " +
                                     std::to_string(values[i]) + "; expected finite numbers");
  }
}

void CheckScalars(const HeadStepSpec& spec) {
  const auto check = [](const char* name, double value) {
    if (value >= 0 && std::isfinite(value)) return;
    throw Error("OPTION_INVALID",
                std::string(name) + " is " + std::to_string(value) + "; expected a number of at least 0");
  };
  check("clipLow", spec.clip_low);
  check("clipHigh", spec.clip_high);
  check("klCoefficient", spec.kl_coefficient);
  check("learningRate", spec.learning_rate);
  check("weightDecay", spec.weight_decay);
  check("maxGradNorm", spec.max_grad_norm);
  if (spec.beta1 >= 0 && spec.beta1 < 1 && spec.beta2 >= 0 && spec.beta2 < 1 && spec.epsilon > 0) return;
  throw Error("OPTION_INVALID", "beta1 and beta2 must lie in [0, 1), epsilon above 0");
}

std::vector<double> ToVector(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

}  // namespace

EditHead::EditHead(std::shared_ptr<Model> model, const EditHeadSpec& spec)
    : model_(std::move(model)), space_(*model_, spec.choices), learnt_basis_(spec.learnt_basis) {
  const int64_t count = space_.size() * (features() + 1) + (learnt_basis_ ? space_.basis_size() : 0);
  // All zero: the untrained mean is 0 for every context.
  values_ = at::zeros({count}, model_->options());
  gradient_ = at::zeros_like(values_);
  first_ = at::zeros_like(values_);
  second_ = at::zeros_like(values_);
  basis_ = space_.FirstBasis(*model_, DeriveKey(spec.key, "edit basis", {}));
  PointBasis();
  noise_.assign(space_.blocks().size(), kFirstNoise);
  unit_ = noise_;
}

at::Tensor EditHead::Weights(const at::Tensor& flat) const {
  return flat.narrow(0, 0, space_.size() * (features() + 1)).view({space_.size(), features() + 1});
}

// A learnt basis moves into the flat parameters.
void EditHead::PointBasis() {
  if (!learnt_basis_) return;
  const at::Tensor place = values_.narrow(0, values_.numel() - space_.basis_size(), space_.basis_size());
  place.copy_(basis_);
  basis_ = place;
}

std::vector<double> EditHead::Features(const DeltaStack& stack, const Ragged& rows,
                                       const JobControl& control) const {
  CheckRagged(rows, model_->config(), "row");
  const int64_t c = features();
  std::vector<double> result(rows.rows() * c);
  const std::vector<int32_t> group(rows.rows(), 0);
  ForBatches(rows, group, kDefaultBatchTokens, control, "edit head", [&](const std::vector<int64_t>& batch) {
    const at::Tensor hidden =
        HiddenStates(*model_, GatherRows(rows, batch), stack).to(at::kDouble).contiguous();
    const double* h = hidden.const_data_ptr<double>();
    for (const int64_t row : batch) {
      double* out = result.data() + row * c;
      for (int64_t t = 0; t < rows.length(row); ++t, h += c) {
        for (int64_t i = 0; i < c; ++i) out[i] += h[i];
      }
      double squares = 0;
      for (int64_t i = 0; i < c; ++i) squares += out[i] * out[i];
      const double rms = std::sqrt(squares / static_cast<double>(c));
      for (int64_t i = 0; i < c && rms > 0; ++i) CheckFinite(out[i] /= rms, "hidden state", row, i);
    }
  });
  return result;
}

at::Tensor EditHead::Inputs(const std::vector<float>& given) const {
  const int64_t c = features(), count = static_cast<int64_t>(given.size()) / c;
  CheckLength("features", given.size(), count * c);
  CheckNumbers("features", given);
  const at::Tensor inputs = at::ones({count, c + 1}, at::kDouble);
  double* out = inputs.mutable_data_ptr<double>();
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < c; ++i) {
      out[row * (c + 1) + i] = static_cast<double>(given[row * c + i]) / static_cast<double>(c);
    }
  }
  return inputs;
}

std::vector<double> EditHead::Means(const std::vector<float>& given) const {
  const at::Tensor inputs = Inputs(given);
  const at::Tensor emitted = at::mm(inputs, Weights(values_).to(at::kDouble).t()).contiguous();
  std::vector<double> means = ToVector(emitted);
  for (int64_t row = 0; row < inputs.size(0); ++row) {
    for (size_t m = 0; m < unit_.size(); ++m) {
      const SpaceBlock& block = space_.blocks()[m];
      for (int64_t j = block.offset; j < block.end(); ++j) means[row * space_.size() + j] *= unit_[m];
    }
  }
  return means;
}

std::vector<double> EditHead::Sample(const std::vector<float>& means, const std::vector<uint64_t>& keys,
                                     int64_t samples, bool antithetic) const {
  const int64_t d = space_.size(), contexts = static_cast<int64_t>(keys.size());
  CheckLength("means", means.size(), contexts * d);
  if (samples < 1 || samples > (1 << 20)) {
    throw Error("OPTION_INVALID", "samples is " + std::to_string(samples) + "; expected at least 1");
  }
  std::vector<double> vectors(contexts * samples * d);
  for (int64_t c = 0; c < contexts; ++c) {
    for (int64_t s = 0; s < samples; ++s) {
      const int64_t draw = antithetic ? s / 2 : s;
      const double sign = antithetic && s % 2 == 1 ? -1 : 1;
      const at::Tensor normal = KeyedNormal({d}, MixKey(keys[c], static_cast<uint64_t>(draw)));
      const double* epsilon = normal.const_data_ptr<double>();
      double* out = vectors.data() + (c * samples + s) * d;
      for (size_t m = 0; m < noise_.size(); ++m) {
        const SpaceBlock& block = space_.blocks()[m];
        for (int64_t j = block.offset; j < block.end(); ++j) {
          out[j] = means[c * d + j] + sign * noise_[m] * epsilon[j];
        }
      }
    }
  }
  return vectors;
}

PulledBack EditHead::PullBack(const std::vector<DeltaPtr>& materials, const std::vector<double>& vectors,
                              const std::vector<DeltaPtr>& gradients, const JobControl& control) const {
  PulledBack result{std::vector<double>(vectors.size(), 0.0), {}};
  at::Tensor basis;
  if (learnt_basis_) basis = at::zeros_like(basis_);
  for (size_t i = 0; i < materials.size(); ++i) {
    control.Check();
    double* own = result.vectors.data() + i * space_.size();
    space_.PullBack(*model_, *HostDelta(materials[i]), vectors.data() + i * space_.size(), this->basis(),
                    *gradients[i], own, basis);
    for (int64_t j = 0; j < space_.size(); ++j) {
      if (std::isfinite(static_cast<float>(own[j]))) continue;
      throw Error("LOSS_NOT_FINITE", "the gradient of edit " + std::to_string(i) + ", entry " +
                                         std::to_string(j) + ", is " + std::to_string(own[j]) +
                                         "; the edit's values overflow");
    }
  }
  result.basis = basis.defined() ? basis.to(at::kFloat) : at::empty({0}, at::kFloat);
  if (!at::isfinite(result.basis).all().item<bool>()) {
    throw Error("LOSS_NOT_FINITE", "the gradient of the basis is not finite; the edits' values overflow");
  }
  return result;
}

void EditHead::SetNoise(const std::vector<double>& noise) {
  CheckLength("noise", noise.size(), static_cast<int64_t>(noise_.size()));
  for (const double sigma : noise) {
    if (sigma > 0 && std::isfinite(sigma)) continue;
    throw Error("OPTION_INVALID", "noise is " + std::to_string(sigma) + "; expected numbers above 0");
  }
  noise_ = noise;
  if (steps_ == 0) unit_ = noise_;
}

HeadStepStats EditHead::Step(const HeadStepSpec& spec, const JobControl& control) {
  const int64_t d = space_.size(), samples = static_cast<int64_t>(spec.context.size());
  const at::Tensor inputs = Inputs(spec.features);
  const int64_t contexts = inputs.size(0);
  if (contexts == 0) throw Error("INPUT_INVALID", "there is no context to learn from");
  CheckScalars(spec);
  CheckLength("vectors", spec.vectors.size(), samples * d);
  CheckLength("oldMeans", spec.old_means.size(), samples * d);
  CheckLength("advantages", spec.advantages.size(), samples);
  if (samples > 0) CheckLength("oldNoise", spec.old_noise.size(), static_cast<int64_t>(noise_.size()));
  if (!spec.gradient.empty()) CheckLength("gradient", spec.gradient.size(), contexts * d);
  if (!spec.basis_gradient.empty()) {
    if (!learnt_basis_) throw Error("INPUT_INVALID", "the head's basis is fixed; it takes no gradient");
    CheckLength("basisGradient", spec.basis_gradient.size(), space_.basis_size());
  }
  CheckNumbers("vectors", spec.vectors);
  CheckNumbers("oldMeans", spec.old_means);
  CheckNumbers("advantages", spec.advantages);
  CheckNumbers("gradient", spec.gradient);
  CheckNumbers("basisGradient", spec.basis_gradient);
  for (const float sigma : spec.old_noise) {
    if (!(sigma > 0 && std::isfinite(sigma))) throw Error("INPUT_INVALID", "oldNoise must be above 0");
  }
  for (const int32_t c : spec.context) {
    if (c < 0 || c >= contexts) {
      throw Error("INPUT_INVALID",
                  "context " + std::to_string(c) + "; there are " + std::to_string(contexts));
    }
  }
  control.Check();

  const std::vector<double> means = Means(spec.features);
  const at::Tensor dmeans = at::zeros({contexts, d}, at::kDouble);
  double* dmu = dmeans.mutable_data_ptr<double>();
  HeadStepStats stats;
  double clipped_blocks = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const double* mu = means.data() + spec.context[i] * d;
    const double advantage = spec.advantages[i], share = 1.0 / static_cast<double>(samples);
    for (size_t m = 0; m < noise_.size(); ++m) {
      const SpaceBlock& block = space_.blocks()[m];
      const double sigma = noise_[m], old = spec.old_noise[m];
      // log N(z; mu, sigma) - log N(z; mu_old, sigma_old), and KL(N(mu_old, sigma_old) || N(mu, sigma))
      double difference = 0;
      for (int64_t j = block.offset; j < block.end(); ++j) {
        const double z = spec.vectors[i * d + j], from = spec.old_means[i * d + j];
        const double u = (z - from) / old, v = (z - mu[j]) / sigma, shift = (from - mu[j]) / sigma;
        difference += 0.5 * (u * u - v * v) + std::log(old / sigma);
        stats.kl_old +=
            share * (std::log(sigma / old) + 0.5 * (old * old / (sigma * sigma) + shift * shift - 1));
      }
      const double ratio = std::exp(difference);
      const double bounded = std::clamp(ratio, 1 - spec.clip_low, 1 + spec.clip_high);
      const double plain = ratio * advantage, clipped = bounded * advantage;
      stats.policy_loss -= share * std::min(plain, clipped);
      clipped_blocks += clipped < plain;
      if (clipped < plain) continue;
      for (int64_t j = block.offset; j < block.end(); ++j) {
        const double z = spec.vectors[i * d + j];
        dmu[spec.context[i] * d + j] -= share * plain * (z - mu[j]) / (sigma * sigma);
      }
    }
  }
  double linear = 0;
  for (size_t i = 0; i < spec.gradient.size(); ++i) {
    dmu[i] += spec.gradient[i];
    linear += spec.gradient[i] * means[i];
  }
  for (size_t m = 0; m < noise_.size(); ++m) {
    const SpaceBlock& block = space_.blocks()[m];
    const double variance = noise_[m] * noise_[m], share = 1.0 / static_cast<double>(contexts);
    stats.entropy += 0.5 * static_cast<double>(block.size) * std::log(2 * M_PI * std::exp(1.0) * variance);
    for (int64_t c = 0; c < contexts; ++c) {
      for (int64_t j = block.offset; j < block.end(); ++j) {
        const double mu = means[c * d + j];
        stats.kl_start += share * mu * mu / (2 * variance);
        dmu[c * d + j] += spec.kl_coefficient * share * mu / variance;
      }
    }
  }
  for (int64_t c = 0; c < contexts; ++c) {
    for (size_t m = 0; m < unit_.size(); ++m) {
      const SpaceBlock& block = space_.blocks()[m];
      for (int64_t j = block.offset; j < block.end(); ++j) dmu[c * d + j] *= unit_[m];
    }
  }
  const at::Tensor gradient = at::zeros_like(gradient_);
  Weights(gradient).copy_(at::mm(dmeans.t(), inputs));
  if (!spec.basis_gradient.empty()) {
    at::Tensor given = at::empty({space_.basis_size()}, at::kFloat);
    std::copy(spec.basis_gradient.begin(), spec.basis_gradient.end(), given.mutable_data_ptr<float>());
    gradient.narrow(0, gradient.numel() - given.numel(), given.numel()).copy_(given);
    linear += at::dot(given.to(at::kDouble), basis_.to(at::kDouble)).item<double>();
  }
  stats.kl_loss = spec.kl_coefficient * stats.kl_start;
  stats.loss = stats.policy_loss + linear + stats.kl_loss;
  stats.clip_fraction = samples == 0 ? 0 : clipped_blocks / static_cast<double>(samples * noise_.size());
  stats.grad_norm = gradient.to(at::kDouble).norm().item<double>();
  // The second moment holds squares of what is left after clipping.
  const double clipped =
      spec.max_grad_norm > 0 ? std::min(stats.grad_norm, spec.max_grad_norm) : stats.grad_norm;
  const bool fits =
      values_.scalar_type() == at::kDouble || std::isfinite(static_cast<float>(clipped * clipped));
  if (!std::isfinite(stats.loss) || !std::isfinite(stats.grad_norm) || !fits) {
    throw Error("LOSS_NOT_FINITE", "edit head, step " + std::to_string(steps_ + 1) + ": loss " +
                                       std::to_string(stats.loss) + ", gradient norm " +
                                       std::to_string(stats.grad_norm) + "; the head was not changed");
  }
  gradient_ = gradient;
  if (spec.dry_run) return stats;
  cpu::AdamWStep step;
  step.count = values_.numel();
  step.learning_rate = spec.learning_rate;
  step.beta1 = spec.beta1;
  step.beta2 = spec.beta2;
  step.epsilon = spec.epsilon;
  step.weight_decay = spec.weight_decay;
  step.clip = spec.max_grad_norm;
  step.step = steps_ + 1;
  const at::Tensor values = values_.clone(), first = first_.clone(), second = second_.clone();
  if (values_.scalar_type() == at::kDouble) {
    cpu::AdamW<double>(values_.mutable_data_ptr<double>(), first_.mutable_data_ptr<double>(),
                       second_.mutable_data_ptr<double>(), gradient_.const_data_ptr<double>(), step);
  } else {
    cpu::AdamW<float>(values_.mutable_data_ptr<float>(), first_.mutable_data_ptr<float>(),
                      second_.mutable_data_ptr<float>(), gradient_.const_data_ptr<float>(), step);
  }
  const DType dtype = values_.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32;
  for (const at::Tensor& state : {values_, first_, second_}) {
    if (AllFinite(dtype, state.const_data_ptr(), state.numel())) continue;
    const auto restore = [](at::Tensor& to, const at::Tensor& from) {
      std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
    };
    restore(values_, values);  // in place: a learnt basis is a part of them
    restore(first_, first);
    restore(second_, second);
    throw Error("LOSS_NOT_FINITE", "edit head, step " + std::to_string(steps_ + 1) +
                                       ": the values or moments after it are not finite; lower the learning "
                                       "rate; the head was not changed");
  }
  ++steps_;
  return stats;
}

std::vector<double> EditHead::Parameters() const { return ToVector(values_); }
std::vector<double> EditHead::Gradients() const { return ToVector(gradient_); }

void EditHead::SetParameters(const std::vector<double>& values) {
  CheckLength("parameters", values.size(), values_.numel());
  at::Tensor all = at::empty({values_.numel()}, at::kDouble);
  std::copy(values.begin(), values.end(), all.mutable_data_ptr<double>());
  values_.copy_(all);
}

std::string EditHead::Describe() const {
  std::string text = "hidden " + std::to_string(features()) + (learnt_basis_ ? ", learnt basis" : "");
  for (const SpaceBlock& block : space_.blocks()) {
    const MatrixInfo& info = model_->tensors()[block.matrix];
    text += "\n" + info.name + " [" + std::to_string(info.out) + ", " + std::to_string(info.in) + "] " +
            SpaceKindName(block.kind) + " " + std::to_string(block.size);
  }
  return text;
}

namespace {
// The first line in which two descriptions differ.
std::pair<std::string, std::string> FirstDifference(const std::string& a, const std::string& b) {
  size_t begin = 0;
  while (true) {
    const size_t i = a.find('\n', begin), j = b.find('\n', begin);
    const std::string left = a.substr(begin, i - begin), right = b.substr(begin, j - begin);
    if (left != right || i == std::string::npos || j == std::string::npos) return {left, right};
    begin = i + 1;
  }
}
}  // namespace

void EditHead::Save(const std::string& path) const {
  const DType dtype = model_->activation() == at::kDouble ? DType::kF64 : DType::kF32;
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const char* name, const at::Tensor& t) {
    tensors.push_back({name, dtype, t.sizes().vec(), t.const_data_ptr()});
  };
  add("values", values_);
  add("first_moment", first_);
  add("second_moment", second_);
  add("basis", basis_);
  const std::vector<int64_t> blocks{static_cast<int64_t>(noise_.size())};
  tensors.push_back({"noise", DType::kF64, blocks, noise_.data()});
  tensors.push_back({"unit", DType::kF64, blocks, unit_.data()});
  WriteSafetensors(path, tensors,
                   {{"format", kFormat}, {"space", Describe()}, {"steps", std::to_string(steps_)}});
}

void EditHead::Load(const std::string& path) {
  const auto file = TensorFile::Open(path, Format::kSafetensors);
  if (file->MetadataString("format") != kFormat) {
    throw Error("FILE_FORMAT", path + ": not an edit head (metadata \"format\" is not " + kFormat + ")");
  }
  const std::string own = Describe(), found = file->MetadataString("space").value_or("");
  if (found != own) {
    const auto [theirs, ours] = FirstDifference(found, own);
    throw Error("FILE_FORMAT", path + ": an edit head of another model or space: found \"" + theirs +
                                   "\"; expected \"" + ours + "\"");
  }
  const DType dtype = model_->activation() == at::kDouble ? DType::kF64 : DType::kF32;
  const auto read = [&](const char* name, DType type, const std::vector<int64_t>& shape, void* to) {
    const TensorInfo* info = file->Find(name);
    if (info == nullptr) throw Error("TENSOR_MISSING", path + ": \"" + name + "\" is missing");
    if (info->dtype != type || info->shape != shape) {
      throw Error("TENSOR_SHAPE", path + ": \"" + name + "\" has " + std::to_string(info->Elements()) +
                                      " values or another type than this head");
    }
    std::copy_n(file->Data(*info), info->bytes, static_cast<uint8_t*>(to));
  };
  const auto read_like = [&](const char* name, const at::Tensor& like) {
    at::Tensor tensor = at::empty_like(like);
    read(name, dtype, like.sizes().vec(), tensor.mutable_data_ptr());
    if (!at::isfinite(tensor).all().item<bool>()) {
      throw Error("FILE_FORMAT", path + ": \"" + name + "\" holds values that are not finite");
    }
    return tensor;
  };
  const at::Tensor values = read_like("values", values_), first = read_like("first_moment", first_),
                   second = read_like("second_moment", second_), basis = read_like("basis", basis_);
  std::vector<double> noise(noise_.size()), unit(unit_.size());
  const std::vector<int64_t> blocks{static_cast<int64_t>(noise_.size())};
  read("noise", DType::kF64, blocks, noise.data());
  read("unit", DType::kF64, blocks, unit.data());
  for (size_t m = 0; m < noise.size(); ++m) {
    if (noise[m] > 0 && unit[m] > 0 && std::isfinite(noise[m]) && std::isfinite(unit[m])) continue;
    throw Error("FILE_FORMAT", path + ": \"noise\" and \"unit\" must be above 0");
  }
  const auto steps = file->MetadataString("steps");
  if (!steps || steps->empty() || steps->find_first_not_of("0123456789") != std::string::npos ||
      steps->size() > 15) {
    throw Error("FILE_FORMAT", path + ": metadata \"steps\" is not a number");
  }
  // All was read and checked: only now does the head change.
  values_.copy_(values);
  first_.copy_(first);
  second_.copy_(second);
  basis_.copy_(basis);
  noise_ = noise;
  unit_ = unit;
  steps_ = std::stoll(*steps);
}

}  // namespace selfedit
