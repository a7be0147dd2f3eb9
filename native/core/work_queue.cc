#include "core/work_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace selfedit {

void WorkQueue::Post(const void* owner, std::function<void()> work) {
  {
    std::unique_lock lock(mutex_);
    // Another owner may be ending the thread just now: a new one starts when that one is gone, never beside
    // it.
    idle_.wait(lock, [this] { return !stopping_; });
    queue_.push_back({owner, std::move(work)});
    if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
  }
  wake_.notify_one();
}

void WorkQueue::Dispose(std::shared_ptr<const void> thing) {
  if (thing == nullptr) return;
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || !thread_.joinable()) return;  // let go here
    queue_.push_back({nullptr, [thing = std::move(thing)]() mutable { thing.reset(); }});
  }
  wake_.notify_one();
}

WorkQueue::Item WorkQueue::Next(std::unique_lock<std::mutex>& lock, bool worked) {
  const auto wanted = [this] { return stopping_ || !queue_.empty(); };
  if (worked && !wake_.wait_for(lock, hooks_.idle_after, wanted)) {
    lock.unlock();
    hooks_.idle();
    lock.lock();
  }
  wake_.wait(lock, wanted);
  if (queue_.empty()) return {};
  Item item = std::move(queue_.front());
  queue_.pop_front();
  running_ = item.owner;
  return item;
}

void WorkQueue::Loop() {
  const std::shared_ptr<void> life = hooks_.begin();
  for (bool worked = false;; worked = true) {
    Item item;
    {
      std::unique_lock lock(mutex_);
      item = Next(lock, worked);
    }
    if (!item.work) return;
    hooks_.before_work();
    item.work();
    item.work = nullptr;  // let go of what it held before anyone is told that it ended
    {
      std::lock_guard lock(mutex_);
      running_ = nullptr;
    }
    idle_.notify_all();
  }
}

void WorkQueue::Enter() {
  std::lock_guard lock(mutex_);
  ++owners_;
}

void WorkQueue::Leave(const void* owner) {
  std::deque<Item> dropped;  // let go on this thread, after the lock
  std::thread last;
  {
    std::unique_lock lock(mutex_);
    // What has not started never will: waiting for its turn would mean waiting for the work of others.
    const auto mine = std::stable_partition(queue_.begin(), queue_.end(),
                                            [&](const Item& item) { return item.owner != owner; });
    std::move(mine, queue_.end(), std::back_inserter(dropped));
    queue_.erase(mine, queue_.end());
    idle_.wait(lock, [&] { return running_ != owner; });
    if (--owners_ == 0 && thread_.joinable()) {
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

}  // namespace selfedit
