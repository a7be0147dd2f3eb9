#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "format/tensor_file.h"

namespace selfedit::addon {

Napi::Value LoadModelCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    LoadSpec spec;
    spec.config = ConfigFrom(Object(o.Get("config"), "config"));
    const Napi::Array files = List(o.Get("files"), "files");
    for (uint32_t i = 0; i < files.Length(); ++i) spec.files.push_back(Text(files.Get(i), "files"));
    if (spec.files.empty()) Invalid("files", "at least one path");
    spec.gguf = Text(o.Get("format"), "format") == "gguf";
    const Napi::Object layout = Object(o.Get("layout"), "layout");
    spec.permuted_qk = Boolean(layout, "permutedQK");
    spec.norm_offset = Integer(layout, "normOffset");
    spec.fused = Boolean(layout, "fused");
    spec.dtype = ParseDtype(Text(o.Get("dtype"), "dtype"));
    spec.device = Text(o.Get("device"), "device");
    return RunJob(
        info.Env(), info[1], [spec](const JobControl& control) { return Model::Load(spec, control); },
        [](Napi::Env env, std::shared_ptr<Model>&& model) -> Napi::Value {
          return ModelHandle::Make(env, std::move(model));
        });
  });
}

Napi::Value RandomModelCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const ModelConfig config = ConfigFrom(Object(info[0], "config"));
    const Dtype dtype = ParseDtype(Text(info[1], "dtype"));
    const uint64_t key = Key(info[2], "key");
    if (!info[3].IsNumber()) Invalid("std", "a number");
    const double std = info[3].As<Napi::Number>().DoubleValue();
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [=](const JobControl&) { return Model::Random(config, dtype, key, std); },
        [](Napi::Env env, std::shared_ptr<Model>&& model) -> Napi::Value {
          return ModelHandle::Make(env, std::move(model));
        });
  });
}

Napi::Value InspectCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [path = Text(info[0], "path")](const JobControl&) { return TensorFile::Open(path)->HeaderJson(); },
        [](Napi::Env env, std::string&& json) -> Napi::Value {
          // As bytes: a text of megabytes is read in parts, never decoded at once.
          return Napi::Buffer<char>::Copy(env, json.data(), json.size());
        });
  });
}

}  // namespace selfedit::addon
