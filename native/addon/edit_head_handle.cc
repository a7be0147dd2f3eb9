#include <algorithm>
#include <cmath>

#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/environment.h"
#include "addon/handle_helpers.h"
#include "addon/job.h"
#include "core/host_delta.h"
#include "core/score.h"

namespace selfedit::addon {
namespace {

using HeadPin = Pin<EditHead>;
using GuardedHead = std::shared_ptr<Guarded<EditHead>>;

Napi::Value Nothing(Napi::Env env, bool&&) { return env.Undefined(); }

std::vector<double> Doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

const Fork& ForkOf(const Napi::Value& value, const EditHead& head) {
  const Fork& fork = Unwrap<ForkHandle>(value).get();
  if (fork.model == head.model()) return fork;
  throw Error("INPUT_INVALID", "the fork belongs to another model than the edit head");
}

// A delta each; null where there is none.
std::vector<DeltaPtr> Deltas(const Napi::Value& value, const char* name, const EditHead& head) {
  const Napi::Array list = List(value, name);
  std::vector<DeltaPtr> deltas;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    if (list.Get(i).IsNull()) {
      deltas.push_back(nullptr);
      continue;
    }
    const DeltaHandle& handle = Unwrap<DeltaHandle>(list.Get(i));
    deltas.push_back(handle.get());
    if (handle.model() != head.model()) {
      throw Error("INPUT_INVALID", std::string(name) + ": delta " + std::to_string(i) +
                                       " belongs to another model than the edit head");
    }
  }
  return deltas;
}

// Vectors end to end, one a delta.
std::vector<double> VectorsFor(const Napi::Value& value, size_t count, const EditHead& head) {
  const std::vector<float> given = Values<float>(value, "vectors");
  const int64_t size = head.space().size();
  if (static_cast<int64_t>(given.size()) != static_cast<int64_t>(count) * size) {
    throw Error("INPUT_INVALID", "there are " + std::to_string(given.size()) + " numbers for " +
                                     std::to_string(count) + " vectors; expected " + std::to_string(size) +
                                     " each");
  }
  return Doubles(given);
}

HeadStepSpec StepSpecFrom(const Napi::Object& o) {
  HeadStepSpec spec;
  spec.features = Values<float>(o, "features");
  spec.context = Values<int32_t>(o, "context");
  spec.vectors = Values<float>(o, "vectors");
  spec.old_means = Values<float>(o, "oldMeans");
  spec.old_noise = Values<float>(o, "oldNoise");
  spec.advantages = Values<float>(o, "advantages");
  spec.gradient = Values<float>(o, "gradient");
  spec.basis_gradient = Values<float>(o, "basisGradient");
  spec.clip_low = Number(o, "clipLow");
  spec.clip_high = Number(o, "clipHigh");
  spec.kl_coefficient = Number(o, "klCoefficient");
  spec.learning_rate = Number(o, "learningRate");
  spec.beta1 = Number(o, "beta1");
  spec.beta2 = Number(o, "beta2");
  spec.epsilon = Number(o, "epsilon");
  spec.weight_decay = Number(o, "weightDecay");
  spec.max_grad_norm = Number(o, "maxGradNorm");
  spec.dry_run = Boolean(o, "dryRun");
  return spec;
}

Napi::Value StatsObject(Napi::Env env, HeadStepStats&& stats) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("loss", stats.loss);
  o.Set("policyLoss", stats.policy_loss);
  o.Set("klLoss", stats.kl_loss);
  o.Set("klStart", stats.kl_start);
  o.Set("klOld", stats.kl_old);
  o.Set("entropy", stats.entropy);
  o.Set("clipFraction", stats.clip_fraction);
  o.Set("gradNorm", stats.grad_norm);
  return o;
}

Napi::Value DeltaList(Napi::Env env, const std::shared_ptr<Model>& model, std::vector<DeltaPtr>&& deltas) {
  Napi::Array list = Napi::Array::New(env, deltas.size());
  for (size_t i = 0; i < deltas.size(); ++i) {
    list.Set(static_cast<uint32_t>(i), DeltaHandle::Make(env, model, std::move(deltas[i])));
  }
  return list;
}

}  // namespace

Napi::Value EditHeadCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const Napi::Object o = Object(info[1], "spec");
    const auto matrices = Values<int32_t>(o, "matrices"), spaces = Values<int32_t>(o, "spaces");
    const auto sizes = Values<int32_t>(o, "sizes");
    if (spaces.size() != matrices.size() || sizes.size() != matrices.size()) {
      Invalid("spaces", "and sizes as long as matrices");
    }
    EditHeadSpec spec;
    for (size_t i = 0; i < matrices.size(); ++i) {
      if (spaces[i] < 0 || spaces[i] > static_cast<int32_t>(SpaceKind::kModulated)) {
        Invalid("spaces", "kinds of space");
      }
      spec.choices.push_back({matrices[i], static_cast<SpaceKind>(spaces[i]), sizes[i]});
    }
    spec.learnt_basis = Boolean(o, "learntBasis");
    spec.key = Key(o.Get("key"), "key");
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [model, spec](const JobControl&) { return std::make_shared<Guarded<EditHead>>(model, spec); },
        [](Napi::Env env, GuardedHead&& head) -> Napi::Value {
          return EditHeadHandle::Make(env, std::move(head));
        });
  });
}

Napi::Function EditHeadHandle::Define(Napi::Env env) {
  return DefineClass(
      env, "NativeEditHead",
      {InstanceAccessor<&EditHeadHandle::Steps>("steps"),
       InstanceAccessor<&EditHeadHandle::Offsets>("offsets"),
       InstanceAccessor<&EditHeadHandle::Noise, &EditHeadHandle::SetNoise>("noise"),
       InstanceMethod<&EditHeadHandle::Features>("features"), InstanceMethod<&EditHeadHandle::Means>("means"),
       InstanceMethod<&EditHeadHandle::Sample>("sample"),
       InstanceMethod<&EditHeadHandle::Material>("material"),
       InstanceMethod<&EditHeadHandle::Compose>("compose"),
       InstanceMethod<&EditHeadHandle::PullBack>("pullBack"), InstanceMethod<&EditHeadHandle::Step>("step"),
       InstanceMethod<&EditHeadHandle::Gradients>("gradients"),
       InstanceMethod<&EditHeadHandle::Parameters>("parameters"),
       InstanceMethod<&EditHeadHandle::SetParameters>("setParameters"),
       InstanceMethod<&EditHeadHandle::Save>("save"), InstanceMethod<&EditHeadHandle::Load>("load"),
       InstanceMethod<&EditHeadHandle::Close>("close")});
}
Napi::Object EditHeadHandle::Make(Napi::Env env, GuardedHead head) {
  return Environment::Of(env).edit_head.New({Napi::External<GuardedHead>::New(env, &head)});
}
EditHeadHandle::EditHeadHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EditHeadHandle>(info) {
  head_ = *Payload<GuardedHead>(info);
  info.This().As<Napi::Object>().TypeTag(&TagOf<EditHeadHandle>());
}
EditHeadHandle::~EditHeadHandle() { Engine::Get().Dispose(std::move(head_)); }

EditHead& EditHeadHandle::Idle() const { return addon::Idle(head_, kName); }

Napi::Value EditHeadHandle::Steps(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<EditHeadHandle>(info);
    return Napi::Number::New(info.Env(), static_cast<double>(Idle().steps()));
  });
}
Napi::Value EditHeadHandle::Offsets(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<EditHeadHandle>(info);
    std::vector<int32_t> offsets{0};
    for (const SpaceBlock& block : Idle().space().blocks())
      offsets.push_back(static_cast<int32_t>(block.end()));
    return Ints(info.Env(), offsets);
  });
}
Napi::Value EditHeadHandle::Noise(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<EditHeadHandle>(info);
    return Floats(info.Env(), Idle().noise());
  });
}
void EditHeadHandle::SetNoise(const Napi::CallbackInfo& info, const Napi::Value& value) {
  Guard(info.Env(), [&] {
    CheckThis<EditHeadHandle>(info);
    Idle().SetNoise(Doubles(Values<float>(value, "noise")));
    return info.Env().Undefined();
  });
}
Napi::Value EditHeadHandle::Features(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [stack = ForkOf(info[0], Idle()).stack, pin = HeadPin(head_),
         rows = RaggedFrom(Object(info[1], "rows"))](const JobControl& control) {
          return pin.get().Features(stack, rows, control);
        },
        [](Napi::Env env, std::vector<double>&& values) -> Napi::Value { return Floats(env, values); });
  });
}
Napi::Value EditHeadHandle::Means(const Napi::CallbackInfo& info) {
  return Guard(info.Env(),
               [&] { return Floats(info.Env(), Idle().Means(Values<float>(info[0], "features"))); });
}
Napi::Value EditHeadHandle::Sample(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const Napi::Object o = Object(info[0], "spec");
    return Floats(info.Env(), Idle().Sample(Values<float>(o, "means"), Values<uint64_t>(o, "keys"),
                                            Integer(o, "samples"), Boolean(o, "antithetic")));
  });
}
Napi::Value EditHeadHandle::Material(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    const std::shared_ptr<Model> model = Idle().model();
    const DeltaStack stack = ForkOf(o.Get("fork"), Idle()).stack;
    const Ragged rows = RaggedFrom(o);
    const std::vector<int32_t> offsets = Values<int32_t>(o, "contextDocuments");
    const std::vector<DeltaPtr> adapted = Deltas(o.Get("adapted"), "adapted", Idle());
    if (offsets.size() != adapted.size() + 1 || offsets.front() != 0 || offsets.back() != rows.rows() ||
        !std::is_sorted(offsets.begin(), offsets.end())) {
      Invalid("contextDocuments", "ascending from 0 to the number of documents");
    }
    MaterialSpec spec;
    spec.rate = Number(o, "rate");
    if (!std::isfinite(spec.rate)) Invalid("rate", "finite");
    spec.selection = Boolean(o, "fisher") ? Selection::kFisher : Selection::kGradient;
    spec.folder = Text(o.Get("folder"), "folder");
    return RunJob(
        info.Env(), info[1],
        [pin = HeadPin(head_), stack, rows, offsets, adapted, spec](const JobControl& control) {
          const EditHead& head = pin.get();
          JobControl quiet = control;
          quiet.report = nullptr;
          std::vector<DeltaPtr> materials;
          for (size_t c = 0; c < adapted.size(); ++c) {
            std::vector<int64_t> own;
            for (int32_t row = offsets[c]; row < offsets[c + 1]; ++row) own.push_back(row);
            materials.push_back(ContextMaterial(*head.model(), head.space(), stack, GatherRows(rows, own),
                                                adapted[c], spec, quiet));
            const double done = static_cast<double>(c + 1);
            control.Report({done, static_cast<double>(adapted.size()), done, NAN});
          }
          return materials;
        },
        [model](Napi::Env env, std::vector<DeltaPtr>&& deltas) {
          return DeltaList(env, model, std::move(deltas));
        });
  });
}
Napi::Value EditHeadHandle::Compose(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::vector<DeltaPtr> materials = Deltas(info[0], "materials", Idle());
    const std::vector<double> vectors = VectorsFor(info[1], materials.size(), Idle());
    const std::shared_ptr<Model> model = Idle().model();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = HeadPin(head_), materials, vectors](const JobControl& control) {
          const EditHead& head = pin.get();
          std::vector<DeltaPtr> deltas;
          for (size_t i = 0; i < materials.size(); ++i) {
            control.Check();
            if (!materials[i]) Invalid("materials", "deltas");
            deltas.push_back(head.space().Compose(*head.model(), *HostDelta(materials[i]),
                                                  vectors.data() + i * head.space().size(), head.basis()));
          }
          return deltas;
        },
        [model](Napi::Env env, std::vector<DeltaPtr>&& deltas) {
          return DeltaList(env, model, std::move(deltas));
        });
  });
}
Napi::Value EditHeadHandle::PullBack(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::vector<DeltaPtr> materials = Deltas(info[0], "materials", Idle());
    const std::vector<double> vectors = VectorsFor(info[1], materials.size(), Idle());
    const std::vector<DeltaPtr> gradients = Deltas(info[2], "gradients", Idle());
    if (gradients.size() != materials.size()) Invalid("gradients", "as many as materials");
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = HeadPin(head_), materials, vectors, gradients](const JobControl& control) {
          for (size_t i = 0; i < materials.size(); ++i) {
            if (!materials[i] || !gradients[i]) Invalid("gradients", "deltas");
          }
          return pin.get().PullBack(materials, vectors, gradients, control);
        },
        [](Napi::Env env, PulledBack&& result) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("vectors", Floats(env, result.vectors));
          o.Set("basis",
                Floats(env, result.basis.const_data_ptr<float>(), static_cast<size_t>(result.basis.numel())));
          return o;
        });
  });
}
Napi::Value EditHeadHandle::Step(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = HeadPin(head_), spec = StepSpecFrom(Object(info[0], "spec"))](const JobControl& control) {
          return pin.get().Step(spec, control);
        },
        StatsObject);
  });
}
Napi::Value EditHeadHandle::Gradients(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return Floats(info.Env(), Idle().Gradients()); });
}
Napi::Value EditHeadHandle::Parameters(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return Floats(info.Env(), Idle().Parameters()); });
}
Napi::Value EditHeadHandle::SetParameters(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    Idle().SetParameters(Doubles(Values<float>(info[0], "values")));
    return info.Env().Undefined();
  });
}
Napi::Value EditHeadHandle::Save(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = HeadPin(head_), path = Text(info[0], "path")](const JobControl&) {
          pin.get().Save(path);
          return true;
        },
        Nothing);
  });
}
Napi::Value EditHeadHandle::Load(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Idle();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [pin = HeadPin(head_), path = Text(info[0], "path")](const JobControl&) {
          pin.get().Load(path);
          return true;
        },
        Nothing);
  });
}
Napi::Value EditHeadHandle::Close(const Napi::CallbackInfo& info) {
  Engine::Get().Dispose(std::move(head_));
  head_.reset();
  return info.Env().Undefined();
}

}  // namespace selfedit::addon
