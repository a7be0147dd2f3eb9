#include "addon/ranks_handle.h"

#include <algorithm>
#include <cstring>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/handle_helpers.h"
#include "addon/job.h"

namespace selfedit::addon {
namespace {

Napi::Value Nothing(Napi::Env env, bool&&) { return env.Undefined(); }

Napi::Uint8Array Bytes(Napi::Env env, const std::vector<uint8_t>& bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), array.Data());
  return array;
}

ProcessGroup& GroupOf(const Ranks& ranks) {
  if (!ranks.group) throw Error("INPUT_INVALID", "the ranks are not connected yet");
  return *ranks.group;
}

RankStore& StoreOf(const Ranks& ranks, int line) {
  const auto& store = line == 0 ? ranks.store : ranks.beats;
  if (!store) throw Error("INPUT_INVALID", "the store is not open yet");
  return *store;
}

int LineOf(const Napi::Value& value) {
  const int64_t line = Index(value);
  if (line != 0 && line != 1) Invalid("line", "0 or 1");
  return static_cast<int>(line);
}

}  // namespace

Napi::Function RanksHandle::Define(Napi::Env env) {
  return DefineClass(
      env, "NativeRanks",
      {InstanceMethod<&RanksHandle::Open>("open"), InstanceMethod<&RanksHandle::Connect>("connect"),
       InstanceMethod<&RanksHandle::Set>("set"), InstanceMethod<&RanksHandle::Add>("add"),
       InstanceMethod<&RanksHandle::Get>("get"), InstanceMethod<&RanksHandle::Remove>("remove"),
       InstanceMethod<&RanksHandle::Wait>("wait"), InstanceMethod<&RanksHandle::Broadcast>("broadcast"),
       InstanceMethod<&RanksHandle::AllGather>("allGather"),
       InstanceMethod<&RanksHandle::AllReduce>("allReduce"), InstanceMethod<&RanksHandle::Close>("close")});
}

Napi::Object RanksHandle::Make(Napi::Env env, GroupSpec spec) {
  return Environment::Of(env).ranks.New({Napi::External<GroupSpec>::New(env, &spec)});
}

RanksHandle::RanksHandle(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<RanksHandle>(info), ranks_(std::make_shared<Ranks>()) {
  ranks_->spec = *Payload<GroupSpec>(info);
  for (auto& courier : couriers_) {
    courier = std::make_shared<Courier>();
    Environment::Of(info.Env()).Own(courier);
  }
  info.This().As<Napi::Object>().TypeTag(&TagOf<RanksHandle>());
}

const std::shared_ptr<Ranks>& RanksHandle::get() const {
  if (!ranks_) Closed(kName);
  return ranks_;
}

template <typename Work, typename Convert>
Napi::Value RanksHandle::Run(const Napi::CallbackInfo& info, int line, Work work, Convert convert) {
  return RunJobOn(
      Poster(line), info.Env(), info.Env().Undefined(),
      [ranks = get(), work = std::move(work)](const JobControl& control) mutable {
        return work(*ranks, control);
      },
      std::move(convert));
}

Napi::Value RanksHandle::Open(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    return Run(
        info, 0,
        [](Ranks& ranks, const JobControl&) {
          if (!HasGloo() && ranks.spec.world > 1 && ranks.spec.device == "cpu") {
            throw Error("RANKS_UNAVAILABLE", "a group of " + std::to_string(ranks.spec.world) +
                                                 " ranks needs Gloo: " + WhyNoGloo());
          }
          ranks.store = std::make_unique<RankStore>(ranks.spec);
          GroupSpec client = ranks.spec;
          client.hosts_store = false;
          ranks.beats = std::make_unique<RankStore>(client);
          return true;
        },
        Nothing);
  });
}

Napi::Value RanksHandle::Connect(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    return Run(
        info, 0,
        [](Ranks& ranks, const JobControl&) {
          ranks.group = std::make_unique<ProcessGroup>(StoreOf(ranks, 0), ranks.spec);
          return true;
        },
        Nothing);
  });
}

Napi::Value RanksHandle::Set(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int line = LineOf(info[0]);
    return Run(
        info, line,
        [line, key = Text(info[1], "key"), value = Text(info[2], "value")](Ranks& ranks, const JobControl&) {
          StoreOf(ranks, line).Set(key, value);
          return true;
        },
        Nothing);
  });
}

Napi::Value RanksHandle::Add(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int line = LineOf(info[0]);
    return Run(
        info, line,
        [line, key = Text(info[1], "key"), by = Index(info[2])](Ranks& ranks, const JobControl&) {
          return StoreOf(ranks, line).Add(key, by);
        },
        [](Napi::Env env, int64_t&& sum) -> Napi::Value {
          return Napi::Number::New(env, static_cast<double>(sum));
        });
  });
}

Napi::Value RanksHandle::Get(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int line = LineOf(info[0]);
    std::vector<std::string> keys;
    const Napi::Array list = List(info[1], "keys");
    for (uint32_t i = 0; i < list.Length(); ++i) keys.push_back(Text(list.Get(i), "keys"));
    return Run(
        info, line, [line, keys](Ranks& ranks, const JobControl&) { return StoreOf(ranks, line).Get(keys); },
        [](Napi::Env env, std::vector<std::string>&& values) -> Napi::Value {
          Napi::Array array = Napi::Array::New(env, values.size());
          for (size_t i = 0; i < values.size(); ++i) array.Set(static_cast<uint32_t>(i), values[i]);
          return array;
        });
  });
}

Napi::Value RanksHandle::Remove(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int line = LineOf(info[0]);
    return Run(
        info, line,
        [line, key = Text(info[1], "key")](Ranks& ranks, const JobControl&) {
          StoreOf(ranks, line).Delete(key);
          return true;
        },
        Nothing);
  });
}

Napi::Value RanksHandle::Wait(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    const int line = LineOf(info[0]);
    return Run(
        info, line,
        [line, key = Text(info[1], "key"), ms = Index(info[2])](Ranks& ranks, const JobControl& control) {
          return StoreOf(ranks, line).Wait(key, std::chrono::milliseconds(ms), control);
        },
        [](Napi::Env env, bool&& there) -> Napi::Value { return Napi::Boolean::New(env, there); });
  });
}

Napi::Value RanksHandle::Broadcast(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    return Run(
        info, 0,
        [bytes = Values<uint8_t>(info[0], "bytes"), root = Index(info[1])](
            Ranks& ranks, const JobControl& control) mutable {
          GroupOf(ranks).Broadcast(&bytes, root, control);
          return std::move(bytes);
        },
        [](Napi::Env env, std::vector<uint8_t>&& bytes) -> Napi::Value { return Bytes(env, bytes); });
  });
}

Napi::Value RanksHandle::AllGather(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    return Run(
        info, 0,
        [bytes = Values<uint8_t>(info[0], "bytes")](Ranks& ranks, const JobControl& control) {
          return GroupOf(ranks).AllGather(bytes, control);
        },
        [](Napi::Env env, std::vector<std::vector<uint8_t>>&& all) -> Napi::Value {
          Napi::Array array = Napi::Array::New(env, all.size());
          for (size_t r = 0; r < all.size(); ++r) array.Set(static_cast<uint32_t>(r), Bytes(env, all[r]));
          return array;
        });
  });
}

Napi::Value RanksHandle::AllReduce(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&] {
    return Run(
        info, 0,
        [values = Values<float>(info[0], "values")](Ranks& ranks, const JobControl& control) mutable {
          const at::Tensor tensor =
              at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kFloat);
          if (!values.empty()) GroupOf(ranks).AllReduce(tensor, control);
          return std::move(values);
        },
        [](Napi::Env env, std::vector<float>&& values) -> Napi::Value { return Floats(env, values); });
  });
}

Napi::Value RanksHandle::Close(const Napi::CallbackInfo& info) {
  for (auto& courier : couriers_) courier->Stop();
  // What hangs in the system, or was dropped, keeps the event loop no longer.
  for (const auto& one : std::exchange(jobs_, {})) {
    if (const auto job = one.lock()) Environment::Of(info.Env()).End(job);
  }
  ranks_.reset();
  return info.Env().Undefined();
}

Napi::Value RanksCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    GroupSpec spec;
    spec.host = Text(o.Get("host"), "host");
    spec.port = Integer(o, "port");
    spec.rank = Integer(o, "rank");
    spec.world = Integer(o, "world");
    spec.hosts_store = Boolean(o, "hostsStore");
    spec.prefix = Text(o.Get("prefix"), "prefix");
    spec.device = Text(o.Get("device"), "device");
    spec.timeout_ms = Integer(o, "timeout");
    if (spec.port < 0 || spec.port > 65535) Invalid("port", "an integer from 0 to 65535");
    if (spec.world < 1 || spec.rank < 0 || spec.rank >= spec.world) Invalid("rank", "below world");
    if (spec.timeout_ms < 1) Invalid("timeout", "milliseconds above 0");
    return RanksHandle::Make(info.Env(), spec);
  });
}

}  // namespace selfedit::addon
