// One thread that runs the work of several owners in order. Without Node and libtorch, so that it can be
// tested alone, under ThreadSanitizer too (native/tests/core_queue_test.cc).
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace selfedit {

class WorkQueue {
 public:
  // What the thread does besides; all are called on it.
  struct Hooks {
    // Lives as long as the thread: thread-local settings.
    std::function<std::shared_ptr<void>()> begin = [] { return nullptr; };
    std::function<void()> before_work = [] {};
    // After so long without work, once until there is work again.
    std::function<void()> idle = [] {};
    std::chrono::milliseconds idle_after{2000};
  };
  explicit WorkQueue(Hooks hooks) : hooks_(std::move(hooks)) {}
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Runs on the thread, in order.
  void Post(const void* owner, std::function<void()> work);
  // Lets go of something large on the thread; where there is none, here.
  void Dispose(std::shared_ptr<const void> thing);
  // An owner came or went. Leave() drops its work that has not begun and waits for that which has; the last
  // one joins the thread.
  void Enter();
  void Leave(const void* owner);

 private:
  struct Item {
    const void* owner;
    std::function<void()> work;
  };
  void Loop();
  // The next item; empty when the thread shall end.
  Item Next(std::unique_lock<std::mutex>& lock, bool worked);

  const Hooks hooks_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Item> queue_;
  const void* running_ = nullptr;
  int owners_ = 0;
  bool stopping_ = false;  // the last owner has left and joins the thread
  std::thread thread_;
};

}  // namespace selfedit
