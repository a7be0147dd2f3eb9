// What the handle classes share.
#pragma once
#include <napi.h>

#include <string>

#include "addon/handles.h"

namespace selfedit::addon {

// Objects are made by the addon only: the constructor takes a pointer to what it shall hold.
template <typename Held>
Held* Payload(const Napi::CallbackInfo& info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "this class is not constructed from JavaScript");
  }
  return info[0].As<Napi::External<Held>>().Data();
}

// Methods are bound to their class by V8, accessors are not: a getter of one class must not read an object of
// another.
template <typename Handle>
void CheckThis(const Napi::CallbackInfo& info) {
  addon::Unwrap<Handle>(info.This());
}

[[noreturn]] inline void Closed(const char* name) {
  throw Error("CLOSED", std::string("the ") + name + " is closed");
}

}  // namespace selfedit::addon
