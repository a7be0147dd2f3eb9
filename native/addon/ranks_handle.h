// The ranks of a run, as JavaScript holds them: two connections to the store, and the group.
#pragma once
#include <napi.h>

#include <memory>
#include <utility>
#include <vector>

#include "addon/courier.h"
#include "addon/environment.h"
#include "core/process_group.h"

namespace selfedit::addon {

// Shared by the jobs that use it.
struct Ranks {
  GroupSpec spec;
  // Signs of life go over a connection and a thread of their own: the others may be waiting.
  std::unique_ptr<RankStore> store, beats;
  std::unique_ptr<ProcessGroup> group;
};

class RanksHandle : public Napi::ObjectWrap<RanksHandle> {
 public:
  static constexpr const char* kName = "group of ranks";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, GroupSpec spec);
  explicit RanksHandle(const Napi::CallbackInfo& info);
  const std::shared_ptr<Ranks>& get() const;  // throws CLOSED
  // Gives work to the thread of a line.
  auto Poster(int line) {
    return [this, line](std::function<void()> work, const std::weak_ptr<Job>& job) {
      if (jobs_.size() > 64) std::erase_if(jobs_, [](const auto& one) { return one.expired(); });
      jobs_.push_back(job);
      couriers_[line]->Post(std::move(work));
    };
  }

 private:
  Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Connect(const Napi::CallbackInfo& info);
  Napi::Value Set(const Napi::CallbackInfo& info);
  Napi::Value Add(const Napi::CallbackInfo& info);
  Napi::Value Get(const Napi::CallbackInfo& info);
  Napi::Value Remove(const Napi::CallbackInfo& info);
  Napi::Value Wait(const Napi::CallbackInfo& info);
  Napi::Value Broadcast(const Napi::CallbackInfo& info);
  Napi::Value AllGather(const Napi::CallbackInfo& info);
  Napi::Value AllReduce(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  template <typename Work, typename Convert>
  Napi::Value Run(const Napi::CallbackInfo& info, int line, Work work, Convert convert);
  std::shared_ptr<Ranks> ranks_;
  std::shared_ptr<Courier> couriers_[2];
  std::vector<std::weak_ptr<Job>> jobs_;
};

Napi::Value RanksCall(const Napi::CallbackInfo& info);

}  // namespace selfedit::addon
