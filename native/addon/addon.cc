// Entry of the addon: classes and calls of lib/binding.ts, made once for each environment.
#include <napi.h>
#include <torch/headeronly/version.h>

#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/environment.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "addon/ranks_handle.h"
#include "core/device.h"
#include "core/memory.h"
#include "core/process_group.h"
#include "core/random.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "format/file_calls.h"

#ifndef SELFEDIT_VERSION
#define SELFEDIT_VERSION "0.1.0"
#endif

namespace selfedit::addon {
namespace {

Napi::Value Info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object o = Napi::Object::New(env);
  o.Set("version", SELFEDIT_VERSION);
  o.Set("torch", TORCH_VERSION);
  o.Set("cuda", cuda::Built());
  Napi::Array devices = Napi::Array::New(env);
  for (const std::string& name : DeviceNames()) devices.Set(devices.Length(), name);
  o.Set("devices", devices);
  o.Set("whyNoGpu", WhyNoGpu());
  o.Set("threads", Engine::Get().threads());
  o.Set("simd", cpu::SimdName());
  o.Set("gloo", HasGloo());
  o.Set("whyNoGloo", WhyNoGloo());
  o.Set("nccl", HasNccl());
  return o;
}

Napi::Value ListGpus(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    Napi::Array list = Napi::Array::New(info.Env());
    for (const DeviceInfo& device : ListDevices()) {
      if (device.index < 0) continue;
      Napi::Object o = Napi::Object::New(info.Env());
      o.Set("name", device.name);
      o.Set("product", device.product);
      o.Set("total", static_cast<double>(device.total_bytes));
      o.Set("free", static_cast<double>(device.free_bytes));
      o.Set("capability", std::to_string(device.major) + "." + std::to_string(device.minor));
      list.Set(list.Length(), o);
    }
    return list;
  });
}

Napi::Value SetThreads(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const double threads = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : 0;
    if (!(threads >= 1 && threads <= 4096) || threads != static_cast<int>(threads)) {
      throw Error("OPTION_INVALID", "threads must be an integer from 1 to 4096");
    }
    Engine::Get().SetThreads(static_cast<int>(threads));
    return info.Env().Undefined();
  });
}

Napi::Value SetMemoryLimitCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int64_t bytes = Index(info[0]);
    if (bytes < 0) throw Error("OPTION_INVALID", "the memory limit must be a number of bytes from 0");
    SetMemoryLimit(bytes);
    return info.Env().Undefined();
  });
}

// For tests: what tensors hold, and failures of allocations.
Napi::Value TensorMemoryCall(const Napi::CallbackInfo& info) {
  const workspace::Stats stats = workspace::Read();
  Napi::Object o = Napi::Object::New(info.Env());
  o.Set("tensors", static_cast<double>(stats.used_blocks));
  o.Set("bytes", static_cast<double>(stats.used_bytes));
  o.Set("kept", static_cast<double>(stats.kept_bytes));
  o.Set("allocations", static_cast<double>(stats.allocations));
  return o;
}

Napi::Value FailAllocationsCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int64_t after = Index(info[0]), count = Index(info[1]);
    const std::string how = Text(info[2], "how");
    if (after < 0 || count < 0) Invalid("after, count", "integers from 0");
    if (how != "bad_alloc" && how != "libtorch") Invalid("how", "bad_alloc or libtorch");
    workspace::FailAllocations(
        after, count, how == "bad_alloc" ? workspace::Failing::kBadAlloc : workspace::Failing::kLibtorch);
    return info.Env().Undefined();
  });
}

Napi::Value DeriveKeyCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const uint64_t key =
        DeriveKey(Key(info[0], "seed"), Text(info[1], "purpose"), Values<int32_t>(info[2], "indices"));
    return Napi::BigInt::New(info.Env(), key);
  });
}

/// Tests only; nothing of the package calls it.
Napi::Value FileFaultCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string effect = Text(info[1], "effect");
    const auto fault = effect == "error"   ? FileFault::kError
                       : effect == "short" ? FileFault::kShort
                       : effect == "kill"  ? FileFault::kKill
                       : effect == "torn"  ? FileFault::kTorn
                                           : FileFault::kNone;
    Napi::Array made = Napi::Array::New(info.Env());
    for (const auto& call : PlanFileFault(Index(info[0]), fault, static_cast<int>(Index(info[2])))) {
      made.Set(made.Length(), call);
    }
    return made;
  });
}

int64_t Count(const Napi::Value& value) {
  const int64_t n = Index(value);
  if (n < 0 || n > 1'000'000'000) Invalid("n", "an integer from 0 to 1e9");
  return n;
}

Napi::Value PermutationCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return Ints(info.Env(), Permutation(Key(info[0], "key"), static_cast<int32_t>(Count(info[1]))));
  });
}

Napi::Value UniformCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::vector<double> draws = Uniform(Key(info[0], "key"), Count(info[1]));
    Napi::Float64Array array = Napi::Float64Array::New(info.Env(), draws.size());
    std::copy(draws.begin(), draws.end(), array.Data());
    return array;
  });
}

}  // namespace

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment(env);
  env.SetInstanceData(environment);
  environment->model = Napi::Persistent(ModelHandle::Define(env));
  environment->fork = Napi::Persistent(ForkHandle::Define(env));
  environment->delta = Napi::Persistent(DeltaHandle::Define(env));
  environment->policy = Napi::Persistent(PolicyHandle::Define(env));
  environment->ranks = Napi::Persistent(RanksHandle::Define(env));
  environment->edit_head = Napi::Persistent(EditHeadHandle::Define(env));
  auto call = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  call("info", Info);
  call("gpus", ListGpus);
  call("setThreads", SetThreads);
  call("ranks", RanksCall);
  call("inspect", InspectCall);
  call("loadModel", LoadModelCall);
  call("randomModel", RandomModelCall);
  call("editHead", EditHeadCall);
  call("loadDelta", LoadDeltaCall);
  call("loadFactors", LoadFactorsCall);
  call("writeFactors", WriteFactorsCall);
  call("writeMerged", WriteMergedCall);
  call("makeDelta", MakeDeltaCall);
  call("spectralDelta", SpectralDeltaCall);
  call("addDeltas", AddDeltasCall);
  call("truncateDelta", TruncateDeltaCall);
  call("sparsifyDelta", SparsifyDeltaCall);
  call("deltaDifference", DeltaDifferenceCall);
  call("deltaStatistics", DeltaStatisticsCall);
  call("gradient", GradientCall);
  call("score", ScoreCall);
  call("generate", GenerateCall);
  call("adapt", AdaptCall);
  call("planAdapt", PlanAdaptCall);
  call("planGenerate", PlanGenerateCall);
  call("setMemoryLimit", SetMemoryLimitCall);
  call("divergence", DivergenceCall);
  call("tensorMemory", TensorMemoryCall);
  call("failAllocations", FailAllocationsCall);
  call("deriveKey", DeriveKeyCall);
  call("permutation", PermutationCall);
  call("uniform", UniformCall);
  call("fileFault", FileFaultCall);
  return exports;
}

}  // namespace selfedit::addon

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) {
  return selfedit::addon::Init(env, exports);
}
NODE_API_MODULE(selfedit, InitModule)
