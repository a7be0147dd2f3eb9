// The four nouns that JavaScript holds. A handle is a pointer to a core object; closing it lets go of the
// pointer.
#pragma once
#include <napi.h>

#include <memory>
#include <string>

#include "addon/guarded.h"
#include "core/delta.h"
#include "core/edit_head.h"
#include "core/model.h"
#include "core/policy.h"

namespace selfedit::addon {

// Tells V8 about host bytes for as long as the handle is open.
class HostBytes {
 public:
  void Set(Napi::Env env, int64_t bytes) {
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes - bytes_);
    bytes_ = bytes;
  }

 private:
  int64_t bytes_ = 0;
};

class ModelHandle : public Napi::ObjectWrap<ModelHandle> {
 public:
  static constexpr const char* kName = "model";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, std::shared_ptr<Model> model);
  explicit ModelHandle(const Napi::CallbackInfo& info);
  ~ModelHandle() override;
  void Finalize(Napi::Env env) override { bytes_.Set(env, 0); }
  const std::shared_ptr<Model>& get() const;  // throws CLOSED

 private:
  Napi::Value Config(const Napi::CallbackInfo& info);
  Napi::Value Matrices(const Napi::CallbackInfo& info);
  Napi::Value Tensors(const Napi::CallbackInfo& info);
  Napi::Value DtypeOf(const Napi::CallbackInfo& info);
  Napi::Value Device(const Napi::CallbackInfo& info);
  Napi::Value Parameters(const Napi::CallbackInfo& info);
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value MakeFork(const Napi::CallbackInfo& info);
  Napi::Value SetTokenBytes(const Napi::CallbackInfo& info);
  Napi::Value Fingerprint(const Napi::CallbackInfo& info);
  Napi::Value CreatePolicy(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  std::shared_ptr<Model> model_;
  HostBytes bytes_;
};

class ForkHandle : public Napi::ObjectWrap<ForkHandle> {
 public:
  static constexpr const char* kName = "fork";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, Fork fork);
  explicit ForkHandle(const Napi::CallbackInfo& info);
  ~ForkHandle() override;
  const Fork& get() const;

 private:
  Napi::Value Depth(const Napi::CallbackInfo& info);
  Napi::Value MakeFork(const Napi::CallbackInfo& info);
  Napi::Value Apply(const Napi::CallbackInfo& info);
  Napi::Value Revert(const Napi::CallbackInfo& info);
  Napi::Value Memory(const Napi::CallbackInfo& info);
  Napi::Value IsMaterialised(const Napi::CallbackInfo& info);
  Napi::Value Materialise(const Napi::CallbackInfo& info);
  Napi::Value Dematerialise(const Napi::CallbackInfo& info);
  Napi::Value Weight(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  Fork fork_;
};

class DeltaHandle : public Napi::ObjectWrap<DeltaHandle> {
 public:
  static constexpr const char* kName = "delta";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, std::shared_ptr<Model> model, DeltaPtr delta);
  explicit DeltaHandle(const Napi::CallbackInfo& info);
  ~DeltaHandle() override;
  void Finalize(Napi::Env env) override { bytes_.Set(env, 0); }
  const DeltaPtr& get() const;
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  Napi::Value Kind(const Napi::CallbackInfo& info);
  Napi::Value Parts(const Napi::CallbackInfo& info);
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value PartOf(const Napi::CallbackInfo& info);
  Napi::Value Save(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  std::shared_ptr<Model> model_;
  DeltaPtr delta_;
  HostBytes bytes_;
};

using GuardedPolicy = Guarded<Policy>;

class PolicyHandle : public Napi::ObjectWrap<PolicyHandle> {
 public:
  static constexpr const char* kName = "policy";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, std::shared_ptr<GuardedPolicy> policy);
  explicit PolicyHandle(const Napi::CallbackInfo& info);
  ~PolicyHandle() override;

 private:
  Policy& Idle() const;  // throws CLOSED, or INPUT_INVALID while a job works on it
  Napi::Value Steps(const Napi::CallbackInfo& info);
  Napi::Value HasValueHead(const Napi::CallbackInfo& info);
  Napi::Value GradientBytes(const Napi::CallbackInfo& info);
  Napi::Value MakeFork(const Napi::CallbackInfo& info);
  Napi::Value MakeDelta(const Napi::CallbackInfo& info);
  Napi::Value Step(const Napi::CallbackInfo& info);
  Napi::Value Accumulate(const Napi::CallbackInfo& info);
  Napi::Value KeepGradient(const Napi::CallbackInfo& info);
  Napi::Value ReduceGradient(const Napi::CallbackInfo& info);
  Napi::Value SumKept(const Napi::CallbackInfo& info);
  Napi::Value Apply(const Napi::CallbackInfo& info);
  Napi::Value Fingerprint(const Napi::CallbackInfo& info);
  Napi::Value ValuesOf(const Napi::CallbackInfo& info);
  Napi::Value Gradients(const Napi::CallbackInfo& info);
  Napi::Value Parameters(const Napi::CallbackInfo& info);
  Napi::Value SetParameters(const Napi::CallbackInfo& info);
  Napi::Value ResetOptimizer(const Napi::CallbackInfo& info);
  Napi::Value Save(const Napi::CallbackInfo& info);
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  std::shared_ptr<GuardedPolicy> policy_;
};

class EditHeadHandle : public Napi::ObjectWrap<EditHeadHandle> {
 public:
  static constexpr const char* kName = "edit head";
  static Napi::Function Define(Napi::Env env);
  static Napi::Object Make(Napi::Env env, std::shared_ptr<Guarded<EditHead>> head);
  explicit EditHeadHandle(const Napi::CallbackInfo& info);
  ~EditHeadHandle() override;

 private:
  EditHead& Idle() const;  // throws CLOSED, or INPUT_INVALID while a job works on it
  Napi::Value Steps(const Napi::CallbackInfo& info);
  Napi::Value Offsets(const Napi::CallbackInfo& info);
  Napi::Value Noise(const Napi::CallbackInfo& info);
  void SetNoise(const Napi::CallbackInfo& info, const Napi::Value& value);
  Napi::Value Features(const Napi::CallbackInfo& info);
  Napi::Value Means(const Napi::CallbackInfo& info);
  Napi::Value Sample(const Napi::CallbackInfo& info);
  Napi::Value Material(const Napi::CallbackInfo& info);
  Napi::Value Compose(const Napi::CallbackInfo& info);
  Napi::Value PullBack(const Napi::CallbackInfo& info);
  Napi::Value Step(const Napi::CallbackInfo& info);
  Napi::Value Gradients(const Napi::CallbackInfo& info);
  Napi::Value Parameters(const Napi::CallbackInfo& info);
  Napi::Value SetParameters(const Napi::CallbackInfo& info);
  Napi::Value Save(const Napi::CallbackInfo& info);
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  std::shared_ptr<Guarded<EditHead>> head_;
};

// The handle behind a JavaScript value; throws INPUT_INVALID when it is something else. Guarded by type tags.
template <typename Handle>
Handle& Unwrap(const Napi::Value& value);

// A tag of each class, so that an object of another kind is refused instead of being read as this one.
template <typename Handle>
const napi_type_tag& TagOf();

}  // namespace selfedit::addon
