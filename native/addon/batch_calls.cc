#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/forks_from.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "core/adapt.h"
#include "core/generate.h"
#include "core/memory.h"
#include "core/score.h"

namespace selfedit::addon {
namespace {

template <typename T>
struct Flat {
  std::vector<T> values;
  std::vector<int32_t> offsets{0};
  explicit Flat(const std::vector<std::vector<T>>& rows) {
    for (const auto& row : rows) {
      values.insert(values.end(), row.begin(), row.end());
      offsets.push_back(static_cast<int32_t>(values.size()));
    }
  }
};

}  // namespace

Napi::Value ScoreCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    Forks forks = ForksFrom(o);
    ScoreSpec spec;
    spec.model = forks.model;
    spec.forks = std::move(forks.stacks);
    spec.materialised = std::move(forks.materialised);
    spec.rows = RaggedFrom(o);
    spec.row_fork = Values<int32_t>(o, "rowFork");
    spec.temperature = Number(o, "temperature");
    spec.max_batch_tokens = Integer(o, "maxBatchTokens");
    return RunJob(
        info.Env(), info[1],
        [spec = std::move(spec)](const JobControl& control) { return Score(spec, control); },
        [](Napi::Env env, std::vector<double>&& values) -> Napi::Value { return Floats(env, values); });
  });
}

Napi::Value DivergenceCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    Forks forks = ForksFrom(o);
    DivergenceSpec spec;
    spec.model = forks.model;
    spec.forks = std::move(forks.stacks);
    spec.rows = RaggedFrom(o);
    spec.row_fork = Values<int32_t>(o, "rowFork");
    spec.row_reference = Values<int32_t>(o, "rowReference");
    spec.max_batch_tokens = Integer(o, "maxBatchTokens");
    return RunJob(
        info.Env(), info[1],
        [spec = std::move(spec)](const JobControl& control) { return Divergence(spec, control); },
        [](Napi::Env env, std::vector<double>&& values) -> Napi::Value { return Floats(env, values); });
  });
}

namespace {

GenerateSpec GenerateSpecFrom(const Napi::Object& o) {
  Forks forks = ForksFrom(o);
  GenerateSpec spec;
  spec.model = forks.model;
  spec.forks = std::move(forks.stacks);
  spec.prompts = RaggedFrom(o);
  spec.materialised = std::move(forks.materialised);
  const int64_t application = Integer(o, "application");
  if (application < 0 || application > 2) Invalid("application", "auto, overlay or materialised");
  spec.application = static_cast<Application>(application);
  spec.prompt_fork = Values<int32_t>(o, "promptFork");
  spec.shared_prefix = Values<int32_t>(o, "sharedPrefix");
  spec.row_prompt = Values<int32_t>(o, "rowPrompt");
  spec.max_tokens = Values<int32_t>(o, "maxTokens");
  spec.temperature = Values<float>(o, "temperature");
  spec.top_p = Values<float>(o, "topP");
  spec.top_k = Values<int32_t>(o, "topK");
  spec.keys = Values<uint64_t>(o, "keys");
  spec.stop_tokens = Values<int32_t>(o, "stopTokens");
  const Napi::Array stops = List(o.Get("stopStrings"), "stopStrings");
  for (uint32_t i = 0; i < stops.Length(); ++i)
    spec.stop_strings.push_back(Text(stops.Get(i), "stopStrings"));
  spec.max_rows = Integer(o, "maxRows");
  return spec;
}

Napi::Object PlanObject(Napi::Env env, const MemoryPlan& plan) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("free", static_cast<double>(plan.free));
  o.Set("budget", static_cast<double>(plan.budget));
  o.Set("fixed", static_cast<double>(plan.fixed));
  o.Set("each", static_cast<double>(plan.each));
  o.Set("count", static_cast<double>(plan.count));
  o.Set("token", static_cast<double>(plan.token));
  o.Set("tokens", static_cast<double>(plan.tokens));
  o.Set("total", static_cast<double>(plan.total()));
  return o;
}

// A plan alone: on the compute thread, where what is kept and what is packed is known.
template <typename Spec>
Napi::Value PlanJob(const Napi::CallbackInfo& info, Spec spec, MemoryPlan (*plan)(const Spec&)) {
  return RunJob(
      info.Env(), info.Env().Undefined(),
      [spec = std::move(spec), plan](const JobControl&) { return plan(spec); },
      [](Napi::Env env, MemoryPlan&& made) -> Napi::Value { return PlanObject(env, made); });
}

}  // namespace

Napi::Value GenerateCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    GenerateSpec spec = GenerateSpecFrom(Object(info[0], "spec"));
    return RunJob(
        info.Env(), info[1],
        [spec = std::move(spec)](const JobControl& control) { return Generate(spec, control); },
        [](Napi::Env env, GenerateResult&& result) -> Napi::Value {
          const Flat<int32_t> tokens(result.tokens);
          const Flat<float> logprobs(result.logprobs);
          Napi::Uint8Array finish = Napi::Uint8Array::New(env, result.finish.size());
          for (size_t i = 0; i < result.finish.size(); ++i)
            finish[i] = static_cast<uint8_t>(result.finish[i]);
          Napi::Object object = Napi::Object::New(env);
          object.Set("tokens", Ints(env, tokens.values));
          object.Set("offsets", Ints(env, tokens.offsets));
          object.Set("logprobs", Floats(env, logprobs.values));
          object.Set("finish", finish);
          return object;
        });
  });
}

Napi::Value PlanGenerateCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    return PlanJob(info, GenerateSpecFrom(Object(info[0], "spec")), PlanGenerate);
  });
}

namespace {

AdaptSpec AdaptSpecFrom(const Napi::Object& o) {
  const Forks forks = ForksFrom(o);
  AdaptSpec spec;
  spec.model = forks.model;
  spec.documents = RaggedFrom(o);
  spec.loss_mask = Values<uint8_t>(o, "lossMask");
  spec.attended = Values<int32_t>(o, "attended");
  spec.max_step_tokens = Integer(o, "maxStepTokens");
  spec.max_active_slots = Integer(o, "slots");
  spec.deterministic = Boolean(o, "deterministic");
  const auto slot_fork = Values<int32_t>(o, "slotFork");
  const auto slot_documents = Values<int32_t>(o, "slotDocuments");
  const auto matrices = Values<int32_t>(o, "matrices"), matrix_offsets = Values<int32_t>(o, "matrixOffsets");
  const auto rank = Values<int32_t>(o, "rank"), epochs = Values<int32_t>(o, "epochs");
  const auto batch_size = Values<int32_t>(o, "batchSize"), schedule = Values<int32_t>(o, "schedule");
  const auto warmup = Values<int32_t>(o, "warmupSteps");
  const auto alpha = Values<float>(o, "alpha"), rate = Values<float>(o, "learningRate");
  const auto beta1 = Values<float>(o, "beta1"), beta2 = Values<float>(o, "beta2");
  const auto epsilon = Values<float>(o, "epsilon"), decay = Values<float>(o, "weightDecay");
  const auto clip = Values<float>(o, "clip");
  const auto shuffle = Values<uint8_t>(o, "shuffle");
  const auto keys = Values<uint64_t>(o, "keys");
  const Napi::Array init = List(o.Get("init"), "init");
  const auto kind = Values<int32_t>(o, "kind"), selection = Values<int32_t>(o, "selection");
  const auto density = Values<float>(o, "density");
  const size_t k = slot_fork.size();
  for (const size_t size : {rank.size(),
                            epochs.size(),
                            batch_size.size(),
                            schedule.size(),
                            warmup.size(),
                            alpha.size(),
                            rate.size(),
                            beta1.size(),
                            beta2.size(),
                            epsilon.size(),
                            decay.size(),
                            clip.size(),
                            shuffle.size(),
                            keys.size(),
                            kind.size(),
                            selection.size(),
                            density.size(),
                            static_cast<size_t>(init.Length()),
                            slot_documents.size() - 1,
                            matrix_offsets.size() - 1}) {
    if (size != k)
      throw Error("INPUT_INVALID",
                  "every setting of adapt needs one entry a slot (" + std::to_string(k) + ")");
  }
  CheckRowForks(slot_fork, static_cast<int64_t>(k), forks.stacks.size());
  for (size_t s = 0; s < k; ++s) {
    SlotSpec slot;
    slot.stack = forks.stacks[slot_fork[s]];
    slot.first_document = slot_documents[s];
    slot.last_document = slot_documents[s + 1];
    slot.rank = rank[s];
    slot.alpha = alpha[s];
    slot.learning_rate = rate[s];
    slot.epochs = epochs[s];
    slot.batch_size = batch_size[s];
    if (schedule[s] < 0 || schedule[s] > 2) Invalid("schedule", "constant, linear or cosine");
    slot.schedule = static_cast<Schedule>(schedule[s]);
    slot.warmup_steps = warmup[s];
    slot.beta1 = beta1[s];
    slot.beta2 = beta2[s];
    slot.epsilon = epsilon[s];
    slot.weight_decay = decay[s];
    slot.clip = clip[s];
    slot.shuffle = shuffle[s] != 0;
    slot.key = keys[s];
    if (kind[s] < 0 || kind[s] > 1) Invalid("kind", "lowRank or sparse");
    slot.kind = static_cast<DeltaKind>(kind[s]);
    if (selection[s] < 0 || selection[s] > 1) Invalid("selection", "gradient or fisher");
    slot.selection = static_cast<Selection>(selection[s]);
    slot.density = density[s];
    if (matrix_offsets[s] < 0 || matrix_offsets[s + 1] < matrix_offsets[s] ||
        matrix_offsets[s + 1] > static_cast<int64_t>(matrices.size())) {
      Invalid("matrixOffsets", "ascending indices into matrices");
    }
    slot.matrices.assign(matrices.begin() + matrix_offsets[s], matrices.begin() + matrix_offsets[s + 1]);
    const Napi::Value initial = init.Get(static_cast<uint32_t>(s));
    if (!initial.IsNull()) slot.init = Unwrap<DeltaHandle>(initial).get();
    spec.slots.push_back(std::move(slot));
  }
  return spec;
}

}  // namespace

Napi::Value PlanAdaptCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    AdaptSpec spec = AdaptSpecFrom(Object(info[0], "spec"));
    return PlanJob(info, std::move(spec), PlanAdapt);
  });
}

Napi::Value AdaptCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    AdaptSpec spec = AdaptSpecFrom(Object(info[0], "spec"));
    const std::shared_ptr<Model> model = spec.model;
    return RunJob(
        info.Env(), info[1],
        [spec = std::move(spec)](const JobControl& control) { return Adapt(spec, control); },
        [model](Napi::Env env, AdaptResult&& result) -> Napi::Value {
          const Flat<double> loss(result.loss);
          Napi::Array deltas = Napi::Array::New(env, result.deltas.size());
          for (size_t i = 0; i < result.deltas.size(); ++i) {
            deltas.Set(static_cast<uint32_t>(i), DeltaHandle::Make(env, model, result.deltas[i]));
          }
          Napi::Object object = Napi::Object::New(env);
          object.Set("deltas", deltas);
          object.Set("loss", Floats(env, loss.values));
          object.Set("lossOffsets", Ints(env, loss.offsets));
          object.Set("steps", static_cast<double>(result.steps));
          return object;
        });
  });
}

}  // namespace selfedit::addon
