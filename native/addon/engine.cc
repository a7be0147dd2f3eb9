#include "addon/engine.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "core/workspace.h"

namespace selfedit::addon {
namespace {

// OpenMP pools belong to the calling thread, and grad mode is thread-local: both are set here and nowhere
// else.
struct ComputeThread {
  const c10::InferenceMode inference;
  const workspace::Scope scope;
};

// Between steps keeping the memory of past ones is faster; after some seconds without work it goes back.
void GiveMemoryBack() {
  workspace::Trim();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace

Engine& Engine::Get() {
  static Engine* const engine =
      new Engine();  // never destroyed: the thread is joined by the last environment
  return *engine;
}

Engine::Engine()
    : WorkQueue({.begin = [] { return std::make_shared<ComputeThread>(); },
                 .before_work = [this] { ApplyThreads(); },
                 .idle = GiveMemoryBack}) {}

int Engine::threads() const {
  const int applied = applied_;
  return applied > 0 ? applied : at::get_num_threads();
}

void Engine::ApplyThreads() {
  const int wanted = threads_;
  if (wanted > 0 && wanted != applied_) at::set_num_threads(wanted);
  applied_ = at::get_num_threads();
}

}  // namespace selfedit::addon
