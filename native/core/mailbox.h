// The ways back from the thread that works to the one that asked. Without Node, as work_queue.h.
#pragma once
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

namespace selfedit {

// Tasks for one thread, from any. `wake` asks that thread to call Run(); it is never called after Close().
template <typename... Given>
class Mailbox {
 public:
  using Task = std::function<void(Given...)>;

  explicit Mailbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  // False: the thread is gone, and the task is dropped.
  bool Send(Task task) {
    std::lock_guard lock(mutex_);
    if (!open_) return false;
    tasks_.push_back(std::move(task));
    wake_();
    return true;
  }

  // On the receiving thread: all tasks, in order; `around` calls each.
  template <typename Around>
  void Run(Around&& around) {
    for (;;) {
      Task next;
      {
        std::lock_guard lock(mutex_);
        if (tasks_.empty()) return;
        next = std::move(tasks_.front());
        tasks_.pop_front();
      }
      around(next);
    }
  }

  void Close() {
    std::deque<Task> dropped;  // let go after the lock
    std::lock_guard lock(mutex_);
    open_ = false;
    std::swap(dropped, tasks_);
  }

 private:
  std::mutex mutex_;
  bool open_ = true;
  std::deque<Task> tasks_;
  const std::function<void()> wake_;
};

// The latest report that nobody has seen yet: reports never queue up.
template <typename T>
class Latest {
 public:
  // True where none was waiting: the receiver must be told.
  bool Put(const T& value) {
    std::lock_guard lock(mutex_);
    const bool waiting = value_.has_value();
    value_ = value;
    return !waiting;
  }
  std::optional<T> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(value_, std::nullopt);
  }

 private:
  std::mutex mutex_;
  std::optional<T> value_;
};

}  // namespace selfedit
