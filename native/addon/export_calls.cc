// Deltas and merged models into the files of others.
#include <optional>

#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "core/adapter_file.h"
#include "core/host_delta.h"
#include "core/merge.h"

namespace selfedit::addon {
namespace {

// What a file of factors calls its maps; nothing: PEFT's names.
struct GgufNames {
  std::string architecture;
  std::vector<GgufMap> maps;
};

std::optional<GgufNames> NamesFrom(const Napi::Object& spec) {
  const Napi::Value value = spec.Get("gguf");
  if (value.IsNull() || value.IsUndefined()) return std::nullopt;
  const Napi::Object o = Object(value, "gguf");
  GgufNames names{Text(o.Get("architecture"), "architecture"), {}};
  const Napi::Array list = List(o.Get("maps"), "maps");
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Object map = Object(list.Get(i), "maps");
    names.maps.push_back({Text(map.Get("module"), "module"), Text(map.Get("tensor"), "tensor"),
                          PermutedHeads(map, Integer(map, "rows"))});
  }
  return names;
}

DType DTypeFrom(const Napi::Value& value) {
  const std::string name = Text(value, "dtype");
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    if (name == DTypeName(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  Invalid("dtype", "a type of safetensors");
}

MergedTensor TensorFrom(const Napi::Object& o, const Model& model) {
  MergedTensor tensor;
  tensor.name = Text(o.Get("name"), "name");
  tensor.dtype = DTypeFrom(o.Get("dtype"));
  const Napi::Array shape = List(o.Get("shape"), "shape");
  for (uint32_t i = 0; i < shape.Length(); ++i) tensor.shape.push_back(Index(shape.Get(i)));
  tensor.stored = Text(o.Get("stored"), "stored");
  const Napi::Array weights = List(o.Get("weights"), "weights");
  for (uint32_t i = 0; i < weights.Length(); ++i) {
    const int64_t id = Index(weights.Get(i));
    if (id < 0 || id >= static_cast<int64_t>(model.tensors().size())) Invalid("weights", "ids of weights");
    tensor.weights.push_back(id);
  }
  tensor.offset = Number(o, "offset");
  return tensor;
}

}  // namespace

Napi::Value WriteFactorsCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const DeltaHandle& handle = Unwrap<DeltaHandle>(info[0]);
    const Napi::Object spec = Object(info[1], "spec");
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [model = handle.model(), delta = handle.get(), path = Text(spec.Get("path"), "path"),
         fused = Boolean(spec, "fused"), names = NamesFrom(spec)](const JobControl&) {
          std::vector<ModuleFactors> modules = FactorsByModule(*HostDelta(delta), *model, fused);
          if (names) {
            WriteGgufLora(modules, names->maps, names->architecture, path);
          } else {
            WritePeft(modules, path);
          }
          return modules;
        },
        [](Napi::Env env, std::vector<ModuleFactors>&& modules) -> Napi::Value {
          Napi::Array list = Napi::Array::New(env, modules.size());
          for (size_t i = 0; i < modules.size(); ++i) {
            Napi::Object item = Napi::Object::New(env);
            item.Set("module", modules[i].module);
            item.Set("rank", static_cast<double>(modules[i].a.size(0)));
            item.Set("scale", modules[i].scale);
            list.Set(static_cast<uint32_t>(i), item);
          }
          return list;
        });
  });
}

Napi::Value WriteMergedCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const DeltaHandle& handle = Unwrap<DeltaHandle>(info[0]);
    const Napi::Object o = Object(info[1], "spec");
    MergeSpec spec;
    spec.fork.model = handle.model();
    const Napi::Array files = List(o.Get("files"), "files");
    for (uint32_t i = 0; i < files.Length(); ++i) spec.files.push_back(Text(files.Get(i), "files"));
    const Napi::Array shards = List(o.Get("shards"), "shards");
    for (uint32_t i = 0; i < shards.Length(); ++i) {
      const Napi::Object item = Object(shards.Get(i), "shards");
      MergedShard shard{Text(item.Get("path"), "path"), {}};
      const Napi::Array tensors = List(item.Get("tensors"), "tensors");
      for (uint32_t t = 0; t < tensors.Length(); ++t) {
        shard.tensors.push_back(TensorFrom(Object(tensors.Get(t), "tensors"), *spec.fork.model));
      }
      spec.shards.push_back(std::move(shard));
    }
    return RunJob(
        info.Env(), info[2],
        [spec = std::move(spec), delta = handle.get()](const JobControl& control) {
          MergeSpec merged = spec;
          merged.fork.stack.push_back({HostDelta(delta), 1.0});
          WriteMerged(merged, control);
          return true;
        },
        [](Napi::Env env, bool&&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace selfedit::addon
