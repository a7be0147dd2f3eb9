// Something that its own jobs change: while one is queued or running, nothing else may touch it.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "format/error.h"

namespace selfedit::addon {

template <typename T>
struct Guarded {
  template <typename... Arguments>
  explicit Guarded(Arguments&&... arguments) : value(std::forward<Arguments>(arguments)...) {}
  T value;
  std::atomic<int> jobs{0};
};

// Holds it for a job: counted from the call until the work is done.
template <typename T>
class Pin {
 public:
  explicit Pin(std::shared_ptr<Guarded<T>> guarded) : guarded_(std::move(guarded)) { ++guarded_->jobs; }
  Pin(Pin&& other) noexcept : guarded_(std::move(other.guarded_)) {}
  Pin(const Pin& other) : guarded_(other.guarded_) {
    if (guarded_) ++guarded_->jobs;
  }
  Pin& operator=(const Pin&) = delete;
  ~Pin() {
    if (guarded_) --guarded_->jobs;
  }
  T& get() const { return guarded_->value; }

 private:
  std::shared_ptr<Guarded<T>> guarded_;
};

// Throws CLOSED, or INPUT_INVALID while a job works on it.
template <typename T>
T& Idle(const std::shared_ptr<Guarded<T>>& guarded, const char* name) {
  if (!guarded) throw Error("CLOSED", std::string("the ") + name + " is closed");
  if (guarded->jobs > 0) {
    throw Error("INPUT_INVALID",
                std::string("the ") + name + " is being updated; await that call before using it");
  }
  return guarded->value;
}

}  // namespace selfedit::addon
