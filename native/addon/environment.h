// What one JavaScript environment (main thread or worker) owns: its constructors, its jobs, its way back to
// the event loop.
#pragma once
#include <napi.h>

#include <atomic>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "addon/courier.h"
#include "core/mailbox.h"
#include "core/types.h"

namespace selfedit::addon {

// One started piece of work. Its stop flag is the only thing that both threads touch without the lock.
struct Job {
  std::atomic<bool> stop{false};
};

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& Of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // To this environment's thread; what is sent is dropped when the environment is gone.
  using Mailbox = selfedit::Mailbox<Napi::Env>;
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }

  // A job keeps the event loop alive from Begin to End.
  void Begin(const std::shared_ptr<Job>& job);
  void End(const std::shared_ptr<Job>& job);
  // Stops the jobs, waits for the running one, and takes no more. Idempotent.
  void Leave();
  bool left() const { return left_; }

  // Threads beside the compute thread, stopped with the environment.
  void Own(std::weak_ptr<Courier> courier) { couriers_.push_back(std::move(courier)); }

  Napi::FunctionReference model, fork, delta, policy, edit_head, ranks;

 private:
  static void Close(void* data);

  Napi::Env env_;
  Napi::ThreadSafeFunction wake_;
  std::shared_ptr<Mailbox> mailbox_;
  std::set<std::shared_ptr<Job>> jobs_;
  std::vector<std::weak_ptr<Courier>> couriers_;
  bool left_ = false;
};

}  // namespace selfedit::addon
