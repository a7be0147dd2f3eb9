#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "addon/ranks_handle.h"

namespace selfedit::addon {
namespace {

PolicyStepSpec StepSpecFrom(const Napi::Object& o) {
  PolicyStepSpec spec;
  spec.rows = RaggedFrom(o);
  const std::string loss = Text(o.Get("loss"), "loss");
  if (loss != "ppo" && loss != "nll") Invalid("loss", "ppo or nll");
  spec.nll = loss == "nll";
  spec.action_mask = Values<uint8_t>(o, "actionMask");
  spec.old_logprobs = Values<float>(o, "oldLogprobs");
  spec.reference_logprobs = Values<float>(o, "referenceLogprobs");
  spec.advantages = Values<float>(o, "advantages");
  spec.returns = Values<float>(o, "returns");
  spec.old_values = Values<float>(o, "oldValues");
  spec.importance = Values<float>(o, "importance");
  spec.temperature = Number(o, "temperature");
  spec.clip_low = Number(o, "clipLow");
  spec.clip_high = Number(o, "clipHigh");
  spec.kl_coefficient = Number(o, "klCoefficient");
  spec.entropy_coefficient = Number(o, "entropyCoefficient");
  spec.value_coefficient = Number(o, "valueCoefficient");
  spec.value_clip = Number(o, "valueClip");
  spec.normalizer = Number(o, "normalizer");
  spec.learning_rate = Number(o, "learningRate");
  spec.value_learning_rate = Number(o, "valueLearningRate");
  spec.beta1 = Number(o, "beta1");
  spec.beta2 = Number(o, "beta2");
  spec.epsilon = Number(o, "epsilon");
  spec.weight_decay = Number(o, "weightDecay");
  spec.max_grad_norm = Number(o, "maxGradNorm");
  spec.max_batch_tokens = Integer(o, "maxBatchTokens");
  spec.dry_run = Boolean(o, "dryRun");
  return spec;
}

Napi::Value StatsObject(Napi::Env env, const PolicyStepStats& stats) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("loss", stats.loss);
  o.Set("policyLoss", stats.policy_loss);
  o.Set("klLoss", stats.kl_loss);
  o.Set("valueLoss", stats.value_loss);
  o.Set("entropy", stats.entropy);
  o.Set("klReference1", stats.kl_reference_1);
  o.Set("klReference3", stats.kl_reference_3);
  o.Set("klOld1", stats.kl_old_1);
  o.Set("klOld3", stats.kl_old_3);
  o.Set("clipFraction", stats.clip_fraction);
  o.Set("explainedVariance", stats.explained_variance);
  o.Set("gradNorm", stats.grad_norm);
  o.Set("maxLogprobGap", stats.max_logprob_gap);
  o.Set("tokens", static_cast<double>(stats.tokens));
  return o;
}

using PolicyPin = Pin<Policy>;

Napi::Value Nothing(Napi::Env env, bool&&) { return env.Undefined(); }

}  // namespace

Napi::Function PolicyHandle::Define(Napi::Env env) {
  return DefineClass(env, "NativePolicy",
                     {InstanceAccessor<&PolicyHandle::Steps>("steps"),
                      InstanceAccessor<&PolicyHandle::HasValueHead>("valueHead"),
                      InstanceAccessor<&PolicyHandle::GradientBytes>("gradientBytes"),
                      InstanceMethod<&PolicyHandle::MakeFork>("fork"),
                      InstanceMethod<&PolicyHandle::MakeDelta>("delta"),
                      InstanceMethod<&PolicyHandle::Step>("step"),
                      InstanceMethod<&PolicyHandle::Accumulate>("accumulate"),
                      InstanceMethod<&PolicyHandle::KeepGradient>("keepGradient"),
                      InstanceMethod<&PolicyHandle::ReduceGradient>("reduceGradient"),
                      InstanceMethod<&PolicyHandle::SumKept>("sumKept"),
                      InstanceMethod<&PolicyHandle::Apply>("apply"),
                      InstanceMethod<&PolicyHandle::Fingerprint>("fingerprint"),
                      InstanceMethod<&PolicyHandle::ValuesOf>("values"),
                      InstanceMethod<&PolicyHandle::Gradients>("gradients"),
                      InstanceMethod<&PolicyHandle::Parameters>("parameters"),
                      InstanceMethod<&PolicyHandle::SetParameters>("setParameters"),
                      InstanceMethod<&PolicyHandle::ResetOptimizer>("resetOptimizer"),
                      InstanceMethod<&PolicyHandle::Save>("save"),
                      InstanceMethod<&PolicyHandle::Load>("load"),
                      InstanceMethod<&PolicyHandle::Close>("close")});
}
Napi::Object PolicyHandle::Make(Napi::Env env, std::shared_ptr<GuardedPolicy> policy) {
  return Environment::Of(env).policy.New({Napi::External<std::shared_ptr<GuardedPolicy>>::New(env, &policy)});
}
PolicyHandle::PolicyHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PolicyHandle>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "this class is not constructed from JavaScript");
  }
  policy_ = *info[0].As<Napi::External<std::shared_ptr<GuardedPolicy>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&TagOf<PolicyHandle>());
}
PolicyHandle::~PolicyHandle() { Engine::Get().Dispose(std::move(policy_)); }

Policy& PolicyHandle::Idle() const { return addon::Idle(policy_, kName); }

Napi::Value PolicyHandle::Steps(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    addon::Unwrap<PolicyHandle>(info.This());  // accessors are not bound to their class
    return Napi::Number::New(info.Env(), static_cast<double>(Idle().steps()));
  });
}
Napi::Value PolicyHandle::HasValueHead(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    addon::Unwrap<PolicyHandle>(info.This());  // accessors are not bound to their class
    return Napi::Boolean::New(info.Env(), Idle().has_value_head());
  });
}
Napi::Value PolicyHandle::GradientBytes(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    addon::Unwrap<PolicyHandle>(info.This());
    return Napi::Number::New(info.Env(), static_cast<double>(Idle().gradient_bytes()));
  });
}
Napi::Value PolicyHandle::MakeFork(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    Policy& policy = Idle();
    return ForkHandle::Make(info.Env(), Fork{policy.model(), {{policy.Snapshot(), 1.0}}});
  });
}
Napi::Value PolicyHandle::MakeDelta(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return DeltaHandle::Make(info.Env(), Idle().model(), Idle().Snapshot()); });
}
Napi::Value PolicyHandle::Step(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), spec = StepSpecFrom(Object(info[0], "spec"))](const JobControl& control) {
          return pin.get().Step(spec, control);
        },
        [](Napi::Env env, PolicyStepStats&& stats) { return StatsObject(env, stats); });
  });
}
Napi::Value PolicyHandle::Accumulate(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), spec = StepSpecFrom(Object(info[0], "spec"))](const JobControl& control) {
          return pin.get().Accumulate(spec, control).List();
        },
        [](Napi::Env env, std::vector<double>&& sums) -> Napi::Value {
          Napi::Float64Array array = Napi::Float64Array::New(env, sums.size());
          std::copy(sums.begin(), sums.end(), array.Data());
          return array;
        });
  });
}
Napi::Value PolicyHandle::KeepGradient(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_)](const JobControl&) {
          pin.get().KeepGradient();
          return true;
        },
        Nothing);
  });
}
Napi::Value PolicyHandle::ReduceGradient(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    RanksHandle& handle = addon::Unwrap<RanksHandle>(info[0]);
    return RunJobOn(
        handle.Poster(0), info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), ranks = handle.get()](const JobControl& control) {
          pin.get().ReduceGradient(ranks->group.get(), control);
          return true;
        },
        Nothing);
  });
}
Napi::Value PolicyHandle::SumKept(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    const auto owners = Values<int32_t>(info[1], "owners");
    if (info[0].IsNull()) {
      return RunJob(
          info.Env(), info.Env().Undefined(),
          [pin = PolicyPin(policy_), owners](const JobControl& control) {
            pin.get().SumKept(nullptr, owners, control);
            return true;
          },
          Nothing);
    }
    RanksHandle& handle = addon::Unwrap<RanksHandle>(info[0]);
    return RunJobOn(
        handle.Poster(0), info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), ranks = handle.get(), owners](const JobControl& control) {
          pin.get().SumKept(ranks->group.get(), owners, control);
          return true;
        },
        Nothing);
  });
}
Napi::Value PolicyHandle::Apply(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), spec = StepSpecFrom(Object(info[0], "spec")),
         sums = PolicySums::From(Values<double>(info[1], "sums"))](const JobControl&) {
          return pin.get().Apply(spec, sums);
        },
        [](Napi::Env env, PolicyStepStats&& stats) { return StatsObject(env, stats); });
  });
}
Napi::Value PolicyHandle::Fingerprint(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_)](const JobControl&) { return pin.get().Fingerprint(); },
        [](Napi::Env env, std::string&& digits) -> Napi::Value { return Napi::String::New(env, digits); });
  });
}
Napi::Value PolicyHandle::ValuesOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), rows = RaggedFrom(Object(info[0], "rows"))](const JobControl& control) {
          return pin.get().Values(rows, control);
        },
        [](Napi::Env env, std::vector<double>&& values) -> Napi::Value { return Floats(env, values); });
  });
}
Napi::Value PolicyHandle::Gradients(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return Floats(info.Env(), Idle().Gradients()); });
}
Napi::Value PolicyHandle::Parameters(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return Floats(info.Env(), Idle().Parameters()); });
}
Napi::Value PolicyHandle::SetParameters(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const auto values = Values<float>(info[0], "values");
    Idle().SetParameters(std::vector<double>(values.begin(), values.end()));
    return info.Env().Undefined();
  });
}
Napi::Value PolicyHandle::ResetOptimizer(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    Idle().ResetOptimizer();
    return info.Env().Undefined();
  });
}
Napi::Value PolicyHandle::Save(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), path = Text(info[0], "path")](const JobControl&) {
          pin.get().Save(path);
          return true;
        },
        Nothing);
  });
}
Napi::Value PolicyHandle::Load(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = PolicyPin(policy_), path = Text(info[0], "path")](const JobControl&) {
          pin.get().Load(path);
          return true;
        },
        Nothing);
  });
}
Napi::Value PolicyHandle::Close(const Napi::CallbackInfo& info) {
  Engine::Get().Dispose(std::move(policy_));
  policy_.reset();
  return info.Env().Undefined();
}

}  // namespace selfedit::addon
