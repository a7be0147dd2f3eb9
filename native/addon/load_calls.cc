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
    spec.permuted_qk = Boolean(o, "permutedQK");
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
        [](Napi::Env env, std::string&& json) -> Napi::Value { return Napi::String::New(env, json); });
  });
}

Napi::Value LoadDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const std::string path = Text(info[1], "path");
    std::vector<double> scales(model->matrices().size(), 1.0);
    const Napi::Array list = List(info[2], "scales");
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object item = Object(list.Get(i), "scales");
      const int64_t matrix = Integer(item, "matrix");
      if (matrix < 0 || matrix >= static_cast<int64_t>(scales.size())) Invalid("matrix", "a matrix id");
      scales[matrix] = Number(item, "scale");
    }
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [=](const JobControl&) { return LoadDelta(*model, path, scales); },
        [model](Napi::Env env, DeltaPtr&& delta) -> Napi::Value {
          return DeltaHandle::Make(env, model, std::move(delta));
        });
  });
}

namespace {
at::Tensor Factor(const Napi::Object& part, const char* name, int64_t rows, int64_t columns,
                  const Model& model) {
  const std::vector<float> values = Values<float>(part, name);
  if (static_cast<int64_t>(values.size()) != rows * columns) {
    throw Error("DELTA_SHAPE", std::string("\"") + name + "\" has " + std::to_string(values.size()) +
                                   " values; expected " + std::to_string(rows) + " x " +
                                   std::to_string(columns));
  }
  at::Tensor tensor = at::empty({rows, columns}, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<float>());
  return tensor.to(model.activation());
}
}  // namespace

Napi::Value MakeDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const Napi::Array list = List(info[1], "parts");
    auto delta = std::make_shared<Delta>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object part = Object(list.Get(i), "parts");
      const int64_t matrix = Integer(part, "matrix"), rank = Integer(part, "rank");
      if (matrix < 0 || matrix >= static_cast<int64_t>(model->matrices().size())) {
        throw Error("TARGET_UNKNOWN", "there is no matrix with id " + std::to_string(matrix));
      }
      if (rank < 1 || rank > kMostRank) {
        throw Error("DELTA_SHAPE",
                    "rank is " + std::to_string(rank) + "; expected 1 to " + std::to_string(kMostRank));
      }
      const MatrixInfo& target = model->matrices()[matrix];
      delta->low_rank.push_back({matrix, Factor(part, "a", rank, target.in, *model),
                                 Factor(part, "b", target.out, rank, *model), Number(part, "scale")});
    }
    delta->Check(*model);
    return DeltaHandle::Make(info.Env(), model, delta);
  });
}

}  // namespace selfedit::addon
