// The process-wide compute thread: all tensor work runs here, one job after the other (decision 12).
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace selfedit::addon {

class Engine {
 public:
  static Engine& Get();
  // Runs on the compute thread, in order. `owner` groups the work of one environment.
  void Post(const void* owner, std::function<void()> work);
  // Lets go of something large on the compute thread; finalizers must not do the work themselves.
  void Dispose(std::shared_ptr<const void> thing);
  // Takes effect with the next job.
  void SetThreads(int threads) { threads_ = threads; }
  int threads() const;
  // An environment came or went. Leave() waits until none of its work is queued or running; the last one
  // joins the thread.
  void Enter();
  void Leave(const void* owner);

 private:
  struct Item {
    const void* owner;
    std::function<void()> work;
  };
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Item> queue_;
  const void* running_ = nullptr;
  int environments_ = 0;
  bool stopping_ = false;  // the last environment has left and joins the thread
  std::thread thread_;
  std::atomic<int> threads_{0};
  std::atomic<int> applied_{0};
};

}  // namespace selfedit::addon
