// The calls over many forks, as JavaScript sees them (lib/binding.ts).
#pragma once
#include <napi.h>

namespace selfedit::addon {

Napi::Value LoadModelCall(const Napi::CallbackInfo& info);
Napi::Value RandomModelCall(const Napi::CallbackInfo& info);
Napi::Value InspectCall(const Napi::CallbackInfo& info);
Napi::Value EditHeadCall(const Napi::CallbackInfo& info);
Napi::Value LoadDeltaCall(const Napi::CallbackInfo& info);
Napi::Value LoadFactorsCall(const Napi::CallbackInfo& info);
Napi::Value WriteFactorsCall(const Napi::CallbackInfo& info);
Napi::Value WriteMergedCall(const Napi::CallbackInfo& info);
Napi::Value MakeDeltaCall(const Napi::CallbackInfo& info);
Napi::Value SpectralDeltaCall(const Napi::CallbackInfo& info);
Napi::Value AddDeltasCall(const Napi::CallbackInfo& info);
Napi::Value TruncateDeltaCall(const Napi::CallbackInfo& info);
Napi::Value SparsifyDeltaCall(const Napi::CallbackInfo& info);
Napi::Value DeltaDifferenceCall(const Napi::CallbackInfo& info);
Napi::Value DeltaStatisticsCall(const Napi::CallbackInfo& info);
Napi::Value GradientCall(const Napi::CallbackInfo& info);
Napi::Value ScoreCall(const Napi::CallbackInfo& info);
Napi::Value DivergenceCall(const Napi::CallbackInfo& info);
Napi::Value GenerateCall(const Napi::CallbackInfo& info);
Napi::Value AdaptCall(const Napi::CallbackInfo& info);
Napi::Value PlanAdaptCall(const Napi::CallbackInfo& info);
Napi::Value PlanGenerateCall(const Napi::CallbackInfo& info);

}  // namespace selfedit::addon
