// What one JavaScript environment (main thread or worker) owns: its constructors, its jobs, its way back to
// the event loop.
#pragma once
#include <napi.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>

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

  // Queues `task` for this environment's thread; dropped when the environment is gone. Any thread.
  class Mailbox {
   public:
    bool Send(std::function<void(Napi::Env)> task);

   private:
    friend class Environment;
    std::mutex mutex_;
    bool open_ = true;
    std::deque<std::function<void(Napi::Env)>> tasks_;
    Napi::ThreadSafeFunction wake_;
  };
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }

  // A job keeps the event loop alive from Begin to End.
  void Begin(const std::shared_ptr<Job>& job);
  void End(const std::shared_ptr<Job>& job);
  // Stops the jobs, waits for the running one, and takes no more. Idempotent.
  void Leave();
  bool left() const { return left_; }

  Napi::FunctionReference model, fork, delta, policy, edit_head;

 private:
  static void Close(void* data);

  Napi::Env env_;
  std::shared_ptr<Mailbox> mailbox_;
  std::set<std::shared_ptr<Job>> jobs_;
  bool left_ = false;
};

}  // namespace selfedit::addon
