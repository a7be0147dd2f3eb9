#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/environment.h"
#include "addon/handle_helpers.h"
#include "addon/job.h"
#include "core/delta_file.h"
#include "core/host_delta.h"

namespace selfedit::addon {
namespace {

struct DeltaPayload {
  std::shared_ptr<Model> model;
  DeltaPtr delta;
};

Napi::Value FloatsOf(Napi::Env env, const at::Tensor& tensor) {
  const at::Tensor flat = tensor.cpu().to(at::kFloat).contiguous();
  return Floats(env, flat.const_data_ptr<float>(), static_cast<size_t>(flat.numel()));
}

Napi::Value IntsOf(Napi::Env env, const at::Tensor& tensor) {
  const int32_t* values = tensor.const_data_ptr<int32_t>();
  return Ints(env, std::vector<int32_t>(values, values + tensor.numel()));
}

}  // namespace

Napi::Function DeltaHandle::Define(Napi::Env env) {
  return DefineClass(
      env, "NativeDelta",
      {InstanceAccessor<&DeltaHandle::Kind>("kind"), InstanceAccessor<&DeltaHandle::Parts>("parts"),
       InstanceAccessor<&DeltaHandle::Bytes>("bytes"), InstanceMethod<&DeltaHandle::PartOf>("part"),
       InstanceMethod<&DeltaHandle::Save>("save"), InstanceMethod<&DeltaHandle::Close>("close")});
}
Napi::Object DeltaHandle::Make(Napi::Env env, std::shared_ptr<Model> model, DeltaPtr delta) {
  DeltaPayload payload{std::move(model), std::move(delta)};
  return Environment::Of(env).delta.New({Napi::External<DeltaPayload>::New(env, &payload)});
}
DeltaHandle::DeltaHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeltaHandle>(info) {
  DeltaPayload* payload = Payload<DeltaPayload>(info);
  model_ = payload->model;
  delta_ = payload->delta;
  info.This().As<Napi::Object>().TypeTag(&TagOf<DeltaHandle>());
  bytes_.Set(info.Env(), delta_->bytes());
}
DeltaHandle::~DeltaHandle() {
  Engine::Get().Dispose(std::move(delta_));
  Engine::Get().Dispose(std::move(model_));
}
const DeltaPtr& DeltaHandle::get() const {
  if (!delta_) Closed(kName);
  return delta_;
}
Napi::Value DeltaHandle::Kind(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<DeltaHandle>(info);
    const auto& parts = get()->parts;
    const DeltaKind first = parts.empty() ? DeltaKind::kLowRank : parts.front().kind;
    return Napi::String::New(info.Env(), get()->Only(first) ? DeltaKindName(first) : "mixed");
  });
}
Napi::Value DeltaHandle::Parts(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    CheckThis<DeltaHandle>(info);
    const auto& parts = get()->parts;
    Napi::Array list = Napi::Array::New(info.Env(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      Napi::Object item = Napi::Object::New(info.Env());
      item.Set("kind", DeltaKindName(parts[i].kind));
      item.Set("matrix", static_cast<double>(parts[i].matrix));
      item.Set("rank", static_cast<double>(parts[i].rank()));
      item.Set("scale", parts[i].scale);
      int64_t values = 0;
      for (const at::Tensor& t : parts[i].trainable()) values += t.numel();
      item.Set("values", static_cast<double>(values));
      list.Set(static_cast<uint32_t>(i), item);
    }
    return list;
  });
}
Napi::Value DeltaHandle::Bytes(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    CheckThis<DeltaHandle>(info);
    return Napi::Number::New(info.Env(), static_cast<double>(get()->bytes()));
  });
}
Napi::Value DeltaHandle::PartOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const int64_t index = Index(info[0]);
    if (index < 0 || index >= static_cast<int64_t>(get()->parts.size())) {
      throw Error("OPTION_INVALID", "the delta has no part " + std::to_string(index));
    }
    const DeltaPart& part = delta_->parts[index];
    Napi::Object o = Napi::Object::New(env);
    o.Set("kind", DeltaKindName(part.kind));
    o.Set("matrix", static_cast<double>(part.matrix));
    o.Set("scale", part.scale);
    switch (part.kind) {
      case DeltaKind::kLowRank:
        o.Set("rank", static_cast<double>(part.rank()));
        o.Set("a", FloatsOf(env, part.a));
        o.Set("b", FloatsOf(env, part.b));
        break;
      case DeltaKind::kSparse:
        o.Set("rowOffsets", IntsOf(env, part.row_offsets));
        o.Set("columns", IntsOf(env, part.columns));
        o.Set("values", FloatsOf(env, part.values));
        break;
      case DeltaKind::kSpectral:
        o.Set("u", FloatsOf(env, part.b));
        o.Set("sigma", FloatsOf(env, part.sigma));
        o.Set("v", FloatsOf(env, part.a));
        [[fallthrough]];
      case DeltaKind::kDense:
        o.Set("values", FloatsOf(env, part.values));
    }
    return o;
  });
}
Napi::Value DeltaHandle::Save(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [model = model_, delta = get(), path = Text(info[0], "path")](const JobControl&) {
          SaveDelta(*HostDelta(delta), *model, path);
          return true;
        },
        [](Napi::Env env, bool&&) -> Napi::Value { return env.Undefined(); });
  });
}
Napi::Value DeltaHandle::Close(const Napi::CallbackInfo& info) {
  bytes_.Set(info.Env(), 0);
  Engine::Get().Dispose(std::move(delta_));
  Engine::Get().Dispose(std::move(model_));
  delta_.reset();
  model_.reset();
  return info.Env().Undefined();
}

}  // namespace selfedit::addon
