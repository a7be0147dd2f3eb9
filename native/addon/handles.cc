#include "addon/handles.h"

#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/environment.h"
#include "addon/handle_helpers.h"
#include "addon/job.h"
#include "addon/ranks_handle.h"
#include "core/materialised.h"
#include "core/random.h"

namespace selfedit::addon {

template <>
const napi_type_tag& TagOf<ModelHandle>() {
  static const napi_type_tag tag{0x7b1e0f3a5c2d4e61ull, 0x9a4c1d2e3f506172ull};
  return tag;
}
template <>
const napi_type_tag& TagOf<ForkHandle>() {
  static const napi_type_tag tag{0x2f6a9b8c7d5e4f30ull, 0xb1c2d3e4f5061728ull};
  return tag;
}
template <>
const napi_type_tag& TagOf<DeltaHandle>() {
  static const napi_type_tag tag{0x5d3c2b1a09f8e7d6ull, 0xc5b4a39281706f5eull};
  return tag;
}
template <>
const napi_type_tag& TagOf<PolicyHandle>() {
  static const napi_type_tag tag{0x8e7f6a5b4c3d2e1full, 0xd7e8f9a0b1c2d3e4ull};
  return tag;
}

template <>
const napi_type_tag& TagOf<EditHeadHandle>() {
  static const napi_type_tag tag{0x91c4d7e02b5a3f68ull, 0xe6f7081a2b3c4d5eull};
  return tag;
}

template <>
const napi_type_tag& TagOf<RanksHandle>() {
  static const napi_type_tag tag{0x4be1a7530d9c82f6ull, 0xf708192a3b4c5d6eull};
  return tag;
}

template <typename Handle>
Handle& Unwrap(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&TagOf<Handle>())) {
    throw Error("INPUT_INVALID", std::string("expected a ") + Handle::kName + " made by this package");
  }
  return *Napi::ObjectWrap<Handle>::Unwrap(value.As<Napi::Object>());
}
template ModelHandle& Unwrap<ModelHandle>(const Napi::Value&);
template ForkHandle& Unwrap<ForkHandle>(const Napi::Value&);
template DeltaHandle& Unwrap<DeltaHandle>(const Napi::Value&);
template PolicyHandle& Unwrap<PolicyHandle>(const Napi::Value&);
template EditHeadHandle& Unwrap<EditHeadHandle>(const Napi::Value&);
template RanksHandle& Unwrap<RanksHandle>(const Napi::Value&);

// ---- model
// ----------------------------------------------------------------------------------------------------------

Napi::Function ModelHandle::Define(Napi::Env env) {
  return DefineClass(
      env, "NativeModel",
      {InstanceAccessor<&ModelHandle::Config>("config"), InstanceAccessor<&ModelHandle::Matrices>("matrices"),
       InstanceAccessor<&ModelHandle::Tensors>("tensors"), InstanceAccessor<&ModelHandle::DtypeOf>("dtype"),
       InstanceAccessor<&ModelHandle::Device>("device"),
       InstanceAccessor<&ModelHandle::Parameters>("parameters"),
       InstanceAccessor<&ModelHandle::Bytes>("bytes"), InstanceMethod<&ModelHandle::MakeFork>("fork"),
       InstanceMethod<&ModelHandle::SetTokenBytes>("setTokenBytes"),
       InstanceMethod<&ModelHandle::Fingerprint>("fingerprint"),
       InstanceMethod<&ModelHandle::CreatePolicy>("createPolicy"),
       InstanceMethod<&ModelHandle::Close>("close")});
}

Napi::Object ModelHandle::Make(Napi::Env env, std::shared_ptr<Model> model) {
  return Environment::Of(env).model.New({Napi::External<std::shared_ptr<Model>>::New(env, &model)});
}

ModelHandle::ModelHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelHandle>(info) {
  model_ = *Payload<std::shared_ptr<Model>>(info);
  info.This().As<Napi::Object>().TypeTag(&TagOf<ModelHandle>());
  bytes_.Set(info.Env(), model_->bytes());
}
ModelHandle::~ModelHandle() { Engine::Get().Dispose(std::move(model_)); }

const std::shared_ptr<Model>& ModelHandle::get() const {
  if (!model_) Closed(kName);
  return model_;
}

Napi::Value ModelHandle::Config(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ModelHandle>(info);
    return ConfigObject(info.Env(), get()->config());
  });
}
namespace {
Napi::Value MatrixList(Napi::Env env, const std::vector<MatrixInfo>& matrices) {
  Napi::Array list = Napi::Array::New(env, matrices.size());
  for (size_t i = 0; i < matrices.size(); ++i) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("name", matrices[i].name);
    item.Set("layer", static_cast<double>(matrices[i].layer));
    item.Set("module", matrices[i].ModuleLabel());
    item.Set("out", static_cast<double>(matrices[i].out));
    item.Set("in", static_cast<double>(matrices[i].in));
    list.Set(static_cast<uint32_t>(i), item);
  }
  return list;
}
}  // namespace

Napi::Value ModelHandle::Matrices(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    CheckThis<ModelHandle>(info);
    return MatrixList(info.Env(), get()->matrices());
  });
}
Napi::Value ModelHandle::Tensors(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    CheckThis<ModelHandle>(info);
    return MatrixList(info.Env(), get()->tensors());
  });
}
Napi::Value ModelHandle::DtypeOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ModelHandle>(info);
    return Napi::String::New(info.Env(), DtypeName(get()->dtype()));
  });
}
Napi::Value ModelHandle::Device(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ModelHandle>(info);
    return Napi::String::New(info.Env(), get()->device());
  });
}
Napi::Value ModelHandle::Parameters(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ModelHandle>(info);
    return Napi::Number::New(info.Env(), static_cast<double>(get()->parameters()));
  });
}
Napi::Value ModelHandle::Bytes(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ModelHandle>(info);
    return Napi::Number::New(info.Env(), static_cast<double>(get()->bytes()));
  });
}
Napi::Value ModelHandle::MakeFork(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return ForkHandle::Make(info.Env(), Fork{get(), {}}); });
}
Napi::Value ModelHandle::SetTokenBytes(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    get()->SetTokenBytes(Values<uint8_t>(info[0], "bytes"), Values<int32_t>(info[1], "offsets"));
    return info.Env().Undefined();
  });
}
Napi::Value ModelHandle::Fingerprint(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [model = get()](const JobControl& control) { return model->Fingerprint(control); },
        [](Napi::Env env, std::string&& text) -> Napi::Value { return Napi::String::New(env, text); });
  });
}
Napi::Value ModelHandle::CreatePolicy(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    PolicySpec spec;
    spec.matrices = Values<int32_t>(o, "matrices");
    spec.rank = Integer(o, "rank");
    spec.alpha = Number(o, "alpha");
    spec.key = Key(o.Get("key"), "key");
    spec.value_head = Boolean(o, "valueHead");
    spec.value_bias = Number(o, "valueBias");
    return PolicyHandle::Make(info.Env(), std::make_shared<GuardedPolicy>(get(), spec));
  });
}
Napi::Value ModelHandle::Close(const Napi::CallbackInfo& info) {
  bytes_.Set(info.Env(), 0);
  Engine::Get().Dispose(std::move(model_));
  model_.reset();
  return info.Env().Undefined();
}

// ---- fork
// -----------------------------------------------------------------------------------------------------------

Napi::Function ForkHandle::Define(Napi::Env env) {
  return DefineClass(
      env, "NativeFork",
      {InstanceAccessor<&ForkHandle::Depth>("depth"), InstanceMethod<&ForkHandle::MakeFork>("fork"),
       InstanceMethod<&ForkHandle::Apply>("apply"), InstanceMethod<&ForkHandle::Revert>("revert"),
       InstanceMethod<&ForkHandle::Memory>("memory"),
       InstanceAccessor<&ForkHandle::IsMaterialised>("materialised"),
       InstanceMethod<&ForkHandle::Materialise>("materialise"),
       InstanceMethod<&ForkHandle::Dematerialise>("dematerialise"),
       InstanceMethod<&ForkHandle::Weight>("weight"), InstanceMethod<&ForkHandle::Close>("close")});
}
Napi::Object ForkHandle::Make(Napi::Env env, Fork fork) {
  return Environment::Of(env).fork.New({Napi::External<Fork>::New(env, &fork)});
}
ForkHandle::ForkHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ForkHandle>(info) {
  fork_ = std::move(*Payload<Fork>(info));
  info.This().As<Napi::Object>().TypeTag(&TagOf<ForkHandle>());
}
ForkHandle::~ForkHandle() {
  if (fork_.model) Engine::Get().Dispose(std::make_shared<Fork>(std::move(fork_)));
}
const Fork& ForkHandle::get() const {
  if (!fork_.model) Closed(kName);
  return fork_;
}
Napi::Value ForkHandle::Depth(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ForkHandle>(info);
    return Napi::Number::New(info.Env(), static_cast<double>(get().stack.size()));
  });
}
Napi::Value ForkHandle::MakeFork(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] { return ForkHandle::Make(info.Env(), get()); });
}
Napi::Value ForkHandle::Apply(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    get();
    const DeltaHandle& delta = addon::Unwrap<DeltaHandle>(info[0]);
    if (!info[1].IsNumber()) Invalid("scale", "a number");
    const double scale = info[1].As<Napi::Number>().DoubleValue();
    if (!std::isfinite(scale)) Invalid("scale", "finite");
    const DeltaPtr& held = delta.get();
    if (delta.model() != fork_.model)
      held->Check(*fork_.model);  // made for another model: shapes must fit this one
    fork_.stack.push_back({held, scale});
    fork_.Changed();
    return info.Env().Undefined();
  });
}
Napi::Value ForkHandle::Revert(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int64_t depth = Index(info[0]);
    if (depth < 0 || depth > static_cast<int64_t>(get().stack.size())) {
      throw Error("OPTION_INVALID", "cannot revert to depth " + std::to_string(depth) + "; the fork holds " +
                                        std::to_string(fork_.stack.size()) + " deltas");
    }
    if (depth < static_cast<int64_t>(fork_.stack.size())) fork_.Changed();
    fork_.stack.resize(depth);
    return info.Env().Undefined();
  });
}
Napi::Value ForkHandle::Memory(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("shared", static_cast<double>(get().model->bytes()));
    o.Set("own", static_cast<double>(get().own_bytes()));
    return o;
  });
}
Napi::Value ForkHandle::IsMaterialised(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<ForkHandle>(info);
    return Napi::Boolean::New(info.Env(), get().slot && get().slot->get());
  });
}
Napi::Value ForkHandle::Materialise(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    get();
    if (!fork_.slot) fork_.Changed();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [fork = fork_](const JobControl& control) {
          // The slot belongs to this list of deltas: when the fork changes meanwhile, it has another one.
          if (!fork.slot->get()) fork.slot->set(Materialised::Make(*fork.model, fork.stack, control));
          return true;
        },
        [](Napi::Env env, bool&&) -> Napi::Value { return env.Undefined(); });
  });
}
Napi::Value ForkHandle::Dematerialise(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    get();
    fork_.Changed();
    return info.Env().Undefined();
  });
}
Napi::Value ForkHandle::Weight(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const int64_t matrix = Index(info[0]);
    if (matrix < 0 || matrix >= static_cast<int64_t>(get().model->tensors().size())) {
      throw Error("TARGET_UNKNOWN", "there is no matrix with id " + std::to_string(matrix));
    }
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [fork = get(), matrix](const JobControl&) {
          return fork.EffectiveWeight(matrix).to(at::kFloat).contiguous();
        },
        [](Napi::Env env, at::Tensor&& weight) -> Napi::Value {
          return Floats(env, weight.const_data_ptr<float>(), static_cast<size_t>(weight.numel()));
        });
  });
}
Napi::Value ForkHandle::Close(const Napi::CallbackInfo& info) {
  // It may be the last that holds the model.
  if (fork_.model) Engine::Get().Dispose(std::make_shared<Fork>(std::move(fork_)));
  fork_ = Fork{};
  return info.Env().Undefined();
}

}  // namespace selfedit::addon
