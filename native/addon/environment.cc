#include "addon/environment.h"

#include "addon/engine.h"

namespace selfedit::addon {

Environment::Environment(Napi::Env env) : env_(env), mailbox_(std::make_shared<Mailbox>()) {
  Engine::Get().Enter();
  Napi::Function nothing = Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
  mailbox_->wake_ = Napi::ThreadSafeFunction::New(env, nothing, "selfedit", 0, 1);
  mailbox_->wake_.Unref(env);
  // Registered after the thread-safe function, so it runs before that one is torn down.
  napi_add_env_cleanup_hook(env, &Environment::Close, this);
  // process.exit() and uncaught exceptions run no cleanup hooks in the main thread: they go straight to the
  // destructors of libtorch's static objects, beneath a compute thread that still works. The 'exit' event
  // comes before that.
  const Napi::Object process = env.Global().Get("process").As<Napi::Object>();
  process.Get("once").As<Napi::Function>().Call(
      process, {Napi::String::New(env, "exit"), Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                  Environment::Of(info.Env()).Leave();
                })});
}

bool Environment::Mailbox::Send(std::function<void(Napi::Env)> task) {
  std::lock_guard lock(mutex_);
  if (!open_) return false;
  tasks_.push_back(std::move(task));
  wake_.NonBlockingCall([this](Napi::Env env, Napi::Function) {
    for (;;) {
      std::function<void(Napi::Env)> next;
      {
        std::lock_guard inner(mutex_);
        if (tasks_.empty()) return;
        next = std::move(tasks_.front());
        tasks_.pop_front();
      }
      Napi::HandleScope scope(env);
      next(env);
    }
  });
  return true;
}

void Environment::Begin(const std::shared_ptr<Job>& job) {
  if (jobs_.empty()) mailbox_->wake_.Ref(env_);
  jobs_.insert(job);
}

void Environment::End(const std::shared_ptr<Job>& job) {
  jobs_.erase(job);
  if (jobs_.empty()) mailbox_->wake_.Unref(env_);
}

void Environment::Leave() {
  if (left_) return;
  left_ = true;
  for (const auto& job : jobs_) job->stop = true;
  Engine::Get().Leave(this);  // waits: no work of this environment runs beyond this line
  jobs_.clear();
}

void Environment::Close(void* data) {
  auto* self = static_cast<Environment*>(data);
  self->Leave();
  std::lock_guard lock(self->mailbox_->mutex_);
  self->mailbox_->open_ = false;
  self->mailbox_->tasks_.clear();
  self->mailbox_->wake_.Release();
}

}  // namespace selfedit::addon
