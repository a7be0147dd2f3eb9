// The process-wide compute thread: all tensor work runs here, one job after the other (decision 12).
#pragma once
#include <atomic>
#include <memory>

#include "core/work_queue.h"

namespace selfedit::addon {

// Owners are environments.
class Engine : public WorkQueue {
 public:
  static Engine& Get();
  // Takes effect with the next job.
  void SetThreads(int threads) { threads_ = threads; }
  int threads() const;

 private:
  Engine();
  void ApplyThreads();

  std::atomic<int> threads_{0};
  std::atomic<int> applied_{0};
};

}  // namespace selfedit::addon
