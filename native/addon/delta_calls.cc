// Deltas from files, from values, from other deltas, and their gradients.
#include "addon/calls.h"
#include "addon/convert.h"
#include "addon/forks_from.h"
#include "addon/handles.h"
#include "addon/job.h"
#include "core/adapter_file.h"
#include "core/algebra.h"
#include "core/delta_file.h"
#include "core/gradient.h"
#include "core/host_delta.h"
#include "core/spectral.h"

namespace selfedit::addon {
namespace {

// A job that gives one delta of a model.
template <typename Work>
Napi::Value DeltaJob(Napi::Env env, const std::shared_ptr<Model>& model, Work work) {
  return RunJob(
      env, env.Undefined(), [model, work = std::move(work)](const JobControl&) { return work(*model); },
      [model](Napi::Env env, DeltaPtr&& delta) -> Napi::Value {
        return DeltaHandle::Make(env, model, std::move(delta));
      });
}

at::Tensor FloatTensor(const Napi::Object& part, const char* name, std::vector<int64_t> shape,
                       const Model& model) {
  const std::span<const float> values = View<float>(part.Get(name), name);
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  if (static_cast<int64_t>(values.size()) != count) {
    std::string expected;
    for (const int64_t size : shape) expected += (expected.empty() ? "" : " x ") + std::to_string(size);
    throw Error("DELTA_SHAPE", std::string("\"") + name + "\" has " + std::to_string(values.size()) +
                                   " values; expected " + expected);
  }
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<float>());
  return tensor.to(model.activation());
}

at::Tensor IntTensor(const Napi::Object& part, const char* name) {
  const std::vector<int32_t> values = Values<int32_t>(part, name);
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int32_t>());
  return tensor;
}

int64_t MatrixOf(const Napi::Object& part, const Model& model) {
  const int64_t matrix = Integer(part, "matrix");
  if (matrix < 0 || matrix >= static_cast<int64_t>(model.tensors().size())) {
    throw Error("TARGET_UNKNOWN", "there is no matrix with id " + std::to_string(matrix));
  }
  return matrix;
}

DeltaPart PartFrom(const Napi::Object& o, const Model& model) {
  const int64_t matrix = MatrixOf(o, model);
  const MatrixInfo& target = model.tensors()[matrix];
  const std::string kind = Text(o.Get("kind"), "kind");
  const double scale = Number(o, "scale");
  if (kind == "lowRank") {
    const int64_t rank = Integer(o, "rank");
    if (rank < 1 || rank > kMostRank) {
      throw Error("DELTA_SHAPE",
                  "rank is " + std::to_string(rank) + "; expected 1 to " + std::to_string(kMostRank));
    }
    return DeltaPart::LowRank(matrix, FloatTensor(o, "a", {rank, target.in}, model),
                              FloatTensor(o, "b", {target.out, rank}, model), scale);
  }
  if (kind == "sparse") {
    const at::Tensor columns = IntTensor(o, "columns");
    return DeltaPart::Sparse(matrix, IntTensor(o, "rowOffsets"), columns,
                             FloatTensor(o, "values", {columns.numel()}, model), scale);
  }
  if (kind == "dense") {
    return DeltaPart::Dense(matrix, FloatTensor(o, "values", {target.out, target.in}, model), scale);
  }
  throw Error("INPUT_INVALID", "kind is \"" + kind + "\"; expected lowRank, sparse or dense");
}

void Order(Delta* delta) {
  std::stable_sort(delta->parts.begin(), delta->parts.end(), [](const DeltaPart& a, const DeltaPart& b) {
    return a.matrix != b.matrix ? a.matrix < b.matrix : a.kind < b.kind;
  });
}

}  // namespace

Napi::Value LoadDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const std::string path = Text(info[1], "path");
    return DeltaJob(info.Env(), model, [path](const Model& m) { return LoadDelta(m, path); });
  });
}

Napi::Value LoadFactorsCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const std::string path = Text(info[1], "path");
    const Napi::Array list = List(info[2], "sources");
    std::vector<FactorSource> sources;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object o = Object(list.Get(i), "sources");
      FactorSource source;
      source.matrix = MatrixOf(o, *model);
      source.scale = Number(o, "scale");
      source.a = Text(o.Get("a"), "a");
      source.b = Text(o.Get("b"), "b");
      source.first_row = Integer(o, "firstRow");
      if (source.first_row < 0) Invalid("firstRow", "a row");
      source.permuted_heads = PermutedHeads(o, model->tensors()[source.matrix].out);
      source.transposed = Boolean(o, "transposed");
      sources.push_back(std::move(source));
    }
    std::vector<BaseCopy> copies;
    const Napi::Array own = List(info[3], "copies");
    for (uint32_t i = 0; i < own.Length(); ++i) {
      const Napi::Object o = Object(own.Get(i), "copies");
      copies.push_back({Text(o.Get("tensor"), "tensor"), MatrixOf(o, *model)});
    }
    return DeltaJob(info.Env(), model,
                    [path, sources = std::move(sources), copies = std::move(copies)](const Model& m) {
                      return LoadFactors(m, path, sources, copies);
                    });
  });
}

Napi::Value MakeDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const Napi::Array list = List(info[1], "parts");
    auto delta = std::make_shared<Delta>();
    for (uint32_t i = 0; i < list.Length(); ++i) {
      delta->parts.push_back(PartFrom(Object(list.Get(i), "parts"), *model));
    }
    Order(delta.get());
    delta->Check(*model);
    return DeltaHandle::Make(info.Env(), model, delta);
  });
}

Napi::Value SpectralDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    struct Part {
      int64_t matrix;
      std::vector<float> values;
      double scale;
    };
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const Napi::Array list = List(info[1], "parts");
    const std::string folder = Text(info[2], "folder");
    std::vector<Part> parts;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object o = Object(list.Get(i), "parts");
      parts.push_back({MatrixOf(o, *model), Values<float>(o, "values"), Number(o, "scale")});
    }
    return RunJob(
        info.Env(), info[3],
        [model, parts = std::move(parts), folder](const JobControl& control) -> DeltaPtr {
          auto delta = std::make_shared<Delta>();
          for (const Part& part : parts) {
            control.Check();
            const int64_t rank = static_cast<int64_t>(part.values.size());
            const SpectralFactors& factors = FactorsOf(*model, part.matrix, rank, folder);
            at::Tensor values = at::empty({rank}, at::kFloat);
            std::copy(part.values.begin(), part.values.end(), values.mutable_data_ptr<float>());
            delta->parts.push_back(DeltaPart::Spectral(part.matrix, factors.u, factors.sigma, factors.v,
                                                       values.to(model->activation()), part.scale));
            control.Report({static_cast<double>(delta->parts.size()), static_cast<double>(parts.size()),
                            static_cast<double>(delta->parts.size()), NAN});
          }
          Order(delta.get());
          delta->Check(*model);
          return delta;
        },
        [model](Napi::Env env, DeltaPtr&& delta) -> Napi::Value {
          return DeltaHandle::Make(env, model, std::move(delta));
        });
  });
}

Napi::Value AddDeltasCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Model> model = Unwrap<ModelHandle>(info[0]).get();
    const Napi::Array list = List(info[1], "terms");
    DeltaStack terms;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object item = Object(list.Get(i), "terms");
      const DeltaPtr delta = Unwrap<DeltaHandle>(item.Get("delta")).get();
      const double scale = Number(item, "scale");
      if (!std::isfinite(scale)) Invalid("scale", "finite");
      delta->Check(*model);
      terms.push_back({delta, scale});
    }
    return DeltaJob(info.Env(), model, [terms](const Model& m) { return AddDeltas(m, terms); });
  });
}

Napi::Value TruncateDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const DeltaHandle& handle = Unwrap<DeltaHandle>(info[0]);
    const Napi::Object o = Object(info[1], "options");
    const int64_t rank = Integer(o, "rank");
    const double energy = Number(o, "energy");
    return DeltaJob(info.Env(), handle.model(), [delta = handle.get(), rank, energy](const Model& m) {
      return TruncateDelta(m, *HostDelta(delta), rank, energy);
    });
  });
}

Napi::Value SparsifyDeltaCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const DeltaHandle& handle = Unwrap<DeltaHandle>(info[0]);
    const Napi::Object o = Object(info[1], "options");
    const double density = Number(o, "density");
    return DeltaJob(info.Env(), handle.model(), [delta = handle.get(), density](const Model& m) {
      return SparsifyDelta(m, *HostDelta(delta), density);
    });
  });
}

Napi::Value DeltaDifferenceCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Fork to = Unwrap<ForkHandle>(info[0]).get(), from = Unwrap<ForkHandle>(info[1]).get();
    if (to.model != from.model) {
      throw Error("INPUT_INVALID", "the two forks belong to different models; expected forks of one model");
    }
    return DeltaJob(info.Env(), to.model, [to, from](const Model&) { return DeltaDifference(to, from); });
  });
}

Napi::Value DeltaStatisticsCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const DeltaHandle& handle = Unwrap<DeltaHandle>(info[0]);
    return RunJob(
        info.Env(), info.Env().Undefined(),
        [model = handle.model(), delta = handle.get()](const JobControl&) {
          return DeltaStatistics(*model, *HostDelta(delta));
        },
        [](Napi::Env env, std::vector<PartStatistics>&& all) -> Napi::Value {
          Napi::Array list = Napi::Array::New(env, all.size());
          for (size_t i = 0; i < all.size(); ++i) {
            Napi::Object item = Napi::Object::New(env);
            item.Set("matrix", static_cast<double>(all[i].matrix));
            item.Set("kind", DeltaKindName(all[i].kind));
            item.Set("values", static_cast<double>(all[i].values));
            item.Set("norm", all[i].norm);
            item.Set("relative", all[i].relative);
            item.Set("largest", all[i].largest);
            item.Set("spectral", all[i].spectral);
            list.Set(static_cast<uint32_t>(i), item);
          }
          return list;
        });
  });
}

Napi::Value GradientCall(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const Napi::Object o = Object(info[0], "spec");
    Forks forks = ForksFrom(o);
    GradientSpec spec;
    spec.model = forks.model;
    spec.forks = std::move(forks.stacks);
    spec.rows = RaggedFrom(o);
    spec.row_fork = Values<int32_t>(o, "rowFork");
    spec.level = Values<int32_t>(o, "level");
    const std::vector<float> weights = Values<float>(o, "weights");
    spec.cotangents.assign(weights.begin(), weights.end());
    spec.temperature = Number(o, "temperature");
    spec.row_reference = Values<int32_t>(o, "rowReference");
    const std::vector<float> divergence = Values<float>(o, "divergenceWeights");
    spec.divergence_cotangents.assign(divergence.begin(), divergence.end());
    spec.max_batch_tokens = Integer(o, "maxBatchTokens");
    return RunJob(
        info.Env(), info[1],
        [spec = std::move(spec)](const JobControl& control) { return Gradient(spec, control); },
        [model = forks.model](Napi::Env env, GradientResult&& result) -> Napi::Value {
          Napi::Array deltas = Napi::Array::New(env, result.gradients.size());
          for (size_t i = 0; i < result.gradients.size(); ++i) {
            deltas.Set(static_cast<uint32_t>(i),
                       result.gradients[i] ? DeltaHandle::Make(env, model, result.gradients[i]) : env.Null());
          }
          Napi::Object object = Napi::Object::New(env);
          object.Set("gradients", deltas);
          object.Set("logprobs", Floats(env, result.logprobs));
          object.Set("divergence", Floats(env, result.divergence));
          return object;
        });
  });
}

}  // namespace selfedit::addon
