#include "addon/environment.h"

#include "addon/engine.h"

namespace selfedit::addon {

Environment::Environment(Napi::Env env) : env_(env) {
  Engine::Get().Enter();
  mailbox_ = std::make_shared<Mailbox>([this] { wake_.NonBlockingCall(); });
  // Called without data: what is under way when the environment ends would never be freed.
  const auto run = [this](const Napi::CallbackInfo&) {
    mailbox_->Run([this](const Mailbox::Task& task) {
      Napi::HandleScope scope(env_);
      task(env_);
    });
  };
  wake_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, run), "selfedit", 0, 1);
  wake_.Unref(env);
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

void Environment::Begin(const std::shared_ptr<Job>& job) {
  if (jobs_.empty()) wake_.Ref(env_);
  jobs_.insert(job);
}

void Environment::End(const std::shared_ptr<Job>& job) {
  jobs_.erase(job);
  if (jobs_.empty()) wake_.Unref(env_);
}

void Environment::Leave() {
  if (left_) return;
  left_ = true;
  for (const auto& job : jobs_) job->stop = true;
  for (const auto& courier : couriers_) {
    if (const auto alive = courier.lock()) alive->Stop();
  }
  Engine::Get().Leave(this);  // waits: no work of this environment runs beyond this line
  jobs_.clear();
}

void Environment::Close(void* data) {
  auto* self = static_cast<Environment*>(data);
  self->Leave();
  self->mailbox_->Close();
  self->wake_.Release();
}

}  // namespace selfedit::addon
