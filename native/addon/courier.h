// A thread for work that waits for other processes, so that neither the event loop nor the compute thread
// does.
#pragma once
#include <functional>
#include <memory>

namespace selfedit::addon {

class Courier {
 public:
  Courier();
  ~Courier();
  // In order; dropped after Stop().
  void Post(std::function<void()> work);
  // Drops what has not begun and waits a moment for what has. Work that hangs in the system is left to the
  // process's end.
  void Stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace selfedit::addon
