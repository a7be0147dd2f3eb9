// The calls over many forks, as JavaScript sees them (lib/binding.ts).
#pragma once
#include <napi.h>

namespace selfedit::addon {

Napi::Value LoadModelCall(const Napi::CallbackInfo& info);
Napi::Value RandomModelCall(const Napi::CallbackInfo& info);
Napi::Value InspectCall(const Napi::CallbackInfo& info);
Napi::Value LoadDeltaCall(const Napi::CallbackInfo& info);
Napi::Value MakeDeltaCall(const Napi::CallbackInfo& info);
Napi::Value ScoreCall(const Napi::CallbackInfo& info);
Napi::Value DivergenceCall(const Napi::CallbackInfo& info);
Napi::Value GenerateCall(const Napi::CallbackInfo& info);
Napi::Value AdaptCall(const Napi::CallbackInfo& info);

}  // namespace selfedit::addon
