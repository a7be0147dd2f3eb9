// The one job template: parse on the event loop, compute on the compute thread, convert on the event loop.
#pragma once
#include <c10/core/InferenceMode.h>
#include <napi.h>

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "addon/engine.h"
#include "addon/environment.h"
#include "core/types.h"

namespace selfedit::addon {

struct Failure {
  std::string code, message;
};
// Turns whatever is being thrown into a code and a message.
Failure DescribeException();
Napi::Error MakeError(Napi::Env env, const Failure& failure);

// Runs a synchronous body; native exceptions become JavaScript errors with a code. Tensors are those of the
// compute thread, which works in inference mode: out of it they could be read but not written.
template <typename Body>
auto Guard(Napi::Env env, Body&& body) -> decltype(body()) {
  const c10::InferenceMode inference;
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw MakeError(env, DescribeException());
  }
}

// What a job wanted to say although it went on. Outlives the job: its caller reads it after the end.
struct Warnings {
  std::mutex mutex;
  std::vector<std::string> texts;
};

template <typename Result>
struct RunningJob : Job {
  explicit RunningJob(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference on_progress;
  std::optional<Result> result;
  std::optional<Failure> failure;
  Latest<Progress> progress;
  std::shared_ptr<Warnings> warnings = std::make_shared<Warnings>();
};

inline Napi::Object ProgressObject(Napi::Env env, const Progress& progress) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("done", progress.done);
  object.Set("total", progress.total);
  object.Set("step", progress.step);
  object.Set("loss", progress.loss);
  return object;
}

// work: Result(const JobControl&) on the thread that `post` (which is told the job, too) gives it to;
// convert: Napi::Value(Napi::Env, Result&&) on the event loop. Returns { promise, cancel, warnings }.
template <typename Post, typename Work, typename Convert>
Napi::Object RunJobOn(Post post, Napi::Env env, Napi::Value on_progress, Work work, Convert convert) {
  using Result = decltype(work(std::declval<const JobControl&>()));
  Environment& environment = Environment::Of(env);
  if (environment.left()) throw Error("CLOSED", "the process is exiting; no more work is taken");
  auto job = std::make_shared<RunningJob<Result>>(env);
  if (on_progress.IsFunction()) job->on_progress = Napi::Persistent(on_progress.As<Napi::Function>());
  const bool wants_progress = on_progress.IsFunction();
  auto run = [job, mailbox = environment.mailbox(), wants_progress, work = std::move(work),
              convert = std::move(convert)]() mutable {
    JobControl control;
    control.stop = &job->stop;
    control.warn = [&job](const std::string& text) {
      std::lock_guard lock(job->warnings->mutex);
      job->warnings->texts.push_back(text);
    };
    if (wants_progress) {
      control.report = [&job, &mailbox](const Progress& progress) {
        if (!job->progress.Put(progress)) return;
        mailbox->Send([job](Napi::Env env) {
          const std::optional<Progress> latest = job->progress.Take();
          if (!latest) return;
          try {
            job->on_progress.Call({ProgressObject(env, *latest)});
          } catch (const Napi::Error& error) {
            // A callback that throws stops the job; its promise tells.
            job->stop = true;
            if (!job->failure)
              job->failure = Failure{"ABORTED", "the progress callback threw: " + error.Message()};
          }
        });
      };
    }
    std::optional<Failure> failure;
    try {
      control.Check();
      job->result.emplace(work(control));
    } catch (...) {
      failure = DescribeException();
    }
    // Everything the work pinned is let go here, before the caller can know that the job has ended.
    { Work done = std::move(work); }
    auto shared_convert = std::make_shared<Convert>(std::move(convert));
    mailbox->Send([job, failure, shared_convert](Napi::Env env) {
      Environment::Of(env).End(job);
      job->on_progress.Reset();  // here, not where the last pointer happens to go
      if (failure && !job->failure) job->failure = failure;
      if (job->failure) {
        job->deferred.Reject(MakeError(env, *job->failure).Value());
        return;
      }
      try {
        job->deferred.Resolve((*shared_convert)(env, std::move(*job->result)));
      } catch (const Napi::Error& error) {
        job->deferred.Reject(error.Value());
      } catch (...) {
        job->deferred.Reject(MakeError(env, DescribeException()).Value());
      }
    });
  };
  post(std::move(run), std::weak_ptr<Job>(job));
  environment.Begin(job);  // its end is told on this thread, so it cannot have been told yet
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("promise", job->deferred.Promise());
  std::weak_ptr<Job> weak = job;
  handle.Set("warnings", Napi::Function::New(env, [said = job->warnings](const Napi::CallbackInfo& info) {
               std::lock_guard lock(said->mutex);
               Napi::Array list = Napi::Array::New(info.Env(), said->texts.size());
               for (size_t i = 0; i < said->texts.size(); ++i)
                 list.Set(static_cast<uint32_t>(i), said->texts[i]);
               return list;
             }));
  handle.Set("cancel", Napi::Function::New(env, [weak](const Napi::CallbackInfo&) {
               if (auto alive = weak.lock()) alive->stop = true;
             }));
  return handle;
}

// The same on the compute thread.
template <typename Work, typename Convert>
Napi::Object RunJob(Napi::Env env, Napi::Value on_progress, Work work, Convert convert) {
  const void* owner = &Environment::Of(env);
  return RunJobOn([owner](std::function<void()> run,
                          const std::weak_ptr<Job>&) { Engine::Get().Post(owner, std::move(run)); },
                  env, on_progress, std::move(work), std::move(convert));
}

}  // namespace selfedit::addon
