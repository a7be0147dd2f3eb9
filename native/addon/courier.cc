#include "addon/courier.h"

#include <c10/core/InferenceMode.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace selfedit::addon {

struct Courier::State {
  std::mutex mutex;
  std::condition_variable wake, ended;
  std::deque<std::function<void()>> queue;
  bool stopping = false, over = false;
  std::thread thread;

  void Loop() {
    const c10::InferenceMode inference;
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [this] { return stopping || !queue.empty(); });
        if (stopping) break;
        work = std::move(queue.front());
        queue.pop_front();
      }
      work();
    }
    std::lock_guard lock(mutex);
    over = true;
    ended.notify_all();
  }
};

Courier::Courier() : state_(std::make_shared<State>()) {
  state_->thread = std::thread([state = state_] { state->Loop(); });
}

Courier::~Courier() { Stop(); }

void Courier::Post(std::function<void()> work) {
  {
    std::lock_guard lock(state_->mutex);
    if (state_->stopping) return;
    state_->queue.push_back(std::move(work));
  }
  state_->wake.notify_one();
}

void Courier::Stop() {
  constexpr std::chrono::seconds kMoment{2};
  std::deque<std::function<void()>> dropped;  // let go after the lock
  std::thread thread;
  bool over = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->stopping = true;
    std::swap(dropped, state_->queue);
    state_->wake.notify_one();
    if (!state_->thread.joinable()) return;
    thread = std::move(state_->thread);
    over = thread.get_id() != std::this_thread::get_id() &&
           state_->ended.wait_for(lock, kMoment, [this] { return state_->over; });
  }
  if (over) {
    thread.join();
  } else {
    thread.detach();
  }
}

}  // namespace selfedit::addon
