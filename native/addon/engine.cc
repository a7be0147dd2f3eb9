#include "addon/engine.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <iterator>

#include "core/workspace.h"

namespace selfedit::addon {

Engine& Engine::Get() {
  static Engine* const engine =
      new Engine();  // never destroyed: the thread is joined by the last environment
  return *engine;
}

int Engine::threads() const {
  const int applied = applied_;
  return applied > 0 ? applied : at::get_num_threads();
}

void Engine::Post(const void* owner, std::function<void()> work) {
  {
    std::unique_lock lock(mutex_);
    // Another environment may be ending the thread just now: a new one starts when that one is gone, never
    // beside it.
    idle_.wait(lock, [this] { return !stopping_; });
    queue_.push_back({owner, std::move(work)});
    if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
  }
  wake_.notify_one();
}

void Engine::Dispose(std::shared_ptr<const void> thing) {
  if (thing == nullptr) return;
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || !thread_.joinable()) return;  // let go here
    queue_.push_back({nullptr, [thing = std::move(thing)]() mutable { thing.reset(); }});
  }
  wake_.notify_one();
}

namespace {

// After this long without work the memory of past steps goes back to the system; between steps keeping it is
// faster.
constexpr std::chrono::seconds kIdle{2};

void GiveMemoryBack() {
  workspace::Trim();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace

void Engine::Loop() {
  // OpenMP pools belong to the calling thread, and grad mode is thread-local: both are set here and nowhere
  // else.
  const c10::InferenceMode inference;
  const workspace::Scope scope;
  bool worked = false;
  for (;;) {
    Item item;
    {
      std::unique_lock lock(mutex_);
      const auto wanted = [this] { return stopping_ || !queue_.empty(); };
      if (worked && !wake_.wait_for(lock, kIdle, wanted)) {
        worked = false;
        lock.unlock();
        GiveMemoryBack();
        lock.lock();
      }
      wake_.wait(lock, wanted);
      if (queue_.empty()) return;
      item = std::move(queue_.front());
      queue_.pop_front();
      running_ = item.owner;
    }
    const int wanted = threads_;
    if (wanted > 0 && wanted != applied_) at::set_num_threads(wanted);
    applied_ = at::get_num_threads();
    item.work();
    worked = true;
    item.work = nullptr;  // let go of what it held before anyone is told that it ended
    {
      std::lock_guard lock(mutex_);
      running_ = nullptr;
    }
    idle_.notify_all();
  }
}

void Engine::Enter() {
  std::lock_guard lock(mutex_);
  ++environments_;
}

void Engine::Leave(const void* owner) {
  std::deque<Item> dropped;  // let go on this thread, after the lock
  std::thread last;
  {
    std::unique_lock lock(mutex_);
    // What has not started never will: waiting for its turn would mean waiting for the work of other
    // environments.
    const auto mine = std::stable_partition(queue_.begin(), queue_.end(),
                                            [&](const Item& item) { return item.owner != owner; });
    std::move(mine, queue_.end(), std::back_inserter(dropped));
    queue_.erase(mine, queue_.end());
    idle_.wait(lock, [&] { return running_ != owner; });
    if (--environments_ == 0 && thread_.joinable()) {
      stopping_ = true;
      last = std::move(thread_);
    }
  }
  if (!last.joinable()) return;
  wake_.notify_all();
  last.join();
  {
    std::lock_guard lock(mutex_);
    stopping_ = false;
  }
  idle_.notify_all();
}

}  // namespace selfedit::addon
