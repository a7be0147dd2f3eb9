// Seconds of adapt, evaluate, generate, score and update on random weights of SmolLM2-135M's shape: no peer,
// no Node, for comparing two builds in turn.
//   bench_core [--dtype float32|bfloat16] [--threads 2] [--repeats 3] [--layers 30] [--plain] WORK ...
// --plain: tensors from the system's allocator, as before the workspace. Page faults and processor time are
// of the timed calls alone.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/adapt.h"
#include "core/generate.h"
#include "core/policy.h"
#include "core/random.h"
#include "core/score.h"
#include "core/workspace.h"

namespace {
using namespace selfedit;

ModelConfig Shape(int64_t layers) {
  ModelConfig config;
  config.vocab_size = 49152;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.layers = layers;
  config.heads = 9;
  config.kv_heads = 3;
  config.head_dim = 64;
  config.max_positions = 2048;
  config.tied = true;
  return config;
}

void Append(Ragged* rows, int64_t length, uint64_t key) {
  std::vector<int32_t> tokens;
  for (const double u : Uniform(key, length)) tokens.push_back(static_cast<int32_t>(u * 49000));
  rows->Append(tokens.data(), length);
}

std::vector<int32_t> QueryAndValue(int64_t layers) {
  std::vector<int32_t> ids;
  for (int64_t l = 0; l < layers; ++l) {
    ids.push_back(static_cast<int32_t>(MatrixId(l, Module::kQ)));
    ids.push_back(static_cast<int32_t>(MatrixId(l, Module::kV)));
  }
  return ids;
}

AdaptSpec Edits(const std::shared_ptr<Model>& model, int64_t count) {
  AdaptSpec spec;
  spec.model = model;
  for (int64_t e = 0; e < count; ++e) {
    SlotSpec slot;
    slot.first_document = spec.documents.rows();
    for (const int64_t length : {19, 19, 29, 25, 25, 31, 34, 109}) Append(&spec.documents, length, 7 + e);
    slot.last_document = spec.documents.rows();
    slot.epochs = 1;
    slot.matrices = QueryAndValue(model->config().layers);
    spec.slots.push_back(slot);
  }
  return spec;
}

GenerateSpec Rows(const std::shared_ptr<Model>& model, const std::vector<DeltaStack>& forks, int64_t prompts,
                  int64_t samples, int64_t length, int32_t max_tokens) {
  GenerateSpec spec;
  spec.model = model;
  spec.forks = forks;
  for (size_t f = 0; f < forks.size(); ++f) {
    for (int64_t p = 0; p < prompts; ++p) {
      Append(&spec.prompts, length, 100 + p);
      spec.prompt_fork.push_back(static_cast<int32_t>(f));
      for (int64_t s = 0; s < samples; ++s) {
        spec.row_prompt.push_back(static_cast<int32_t>(spec.prompts.rows() - 1));
        spec.max_tokens.push_back(max_tokens);
        spec.top_k.push_back(0);
        spec.temperature.push_back(samples > 1 ? 1.0f : 0.0f);
        spec.top_p.push_back(1);
        spec.keys.push_back(DeriveKey(1, "row", {static_cast<int32_t>(f), static_cast<int32_t>(s)}));
      }
    }
  }
  return spec;
}

PolicyStepSpec Update() {
  PolicyStepSpec spec;
  for (int64_t r = 0; r < 16; ++r) {
    Append(&spec.rows, 256, 300 + r);
    for (int64_t t = 0; t < 256; ++t) {
      spec.action_mask.push_back(t >= 128);
      spec.old_logprobs.push_back(-10);
      spec.reference_logprobs.push_back(-10);
      spec.advantages.push_back(0.5f);
    }
  }
  spec.kl_coefficient = 0.1;
  spec.normalizer = 16 * 128;
  return spec;
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Usage {
  double cpu;
  long faults;
};
Usage Used() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {seconds(u.ru_utime) + seconds(u.ru_stime), u.ru_minflt};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> works;
  std::map<std::string, std::string> options{
      {"--dtype", "float32"}, {"--threads", "2"}, {"--repeats", "3"}, {"--layers", "30"}};
  bool plain = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--plain") == 0) {
      plain = true;
    } else if (options.count(argv[i]) != 0 && i + 1 < argc) {
      options[argv[i]] = argv[i + 1];
      ++i;
    } else {
      works.push_back(argv[i]);
    }
  }
  const c10::InferenceMode inference;
  std::optional<workspace::Scope> scope;
  if (!plain) scope.emplace();
  at::set_num_threads(std::atoi(options["--threads"].c_str()));
  const int64_t layers = std::atoi(options["--layers"].c_str());
  const auto model = Model::Random(Shape(layers), ParseDtype(options["--dtype"]), 1, 0.02);
  const JobControl control;

  const AdaptSpec edits = Edits(model, 4);
  std::vector<DeltaStack> forks;
  for (const DeltaPtr& delta : Adapt(Edits(model, 8), control).deltas) forks.push_back({{delta, 1.0}});
  const GenerateSpec evaluate = Rows(model, forks, 5, 1, 40, 32);
  const GenerateSpec generate = Rows(model, {{}}, 8, 2, 64, 64);
  ScoreSpec score;
  score.model = model;
  score.forks = {{}};
  for (int64_t r = 0; r < 12; ++r) {
    Append(&score.rows, 40 + 15 * r, 500 + r);
    score.row_fork.push_back(0);
  }
  PolicySpec of_policy;
  of_policy.matrices = QueryAndValue(layers);
  Policy policy(model, of_policy);
  const PolicyStepSpec update = Update();

  const std::map<std::string, std::pair<int64_t, std::function<void()>>> all{
      {"adapt", {static_cast<int64_t>(edits.documents.tokens.size()), [&] { Adapt(edits, control); }}},
      {"evaluate", {int64_t{8} * 5 * 32, [&] { Generate(evaluate, control); }}},
      {"generate", {int64_t{8} * 2 * 64, [&] { Generate(generate, control); }}},
      {"score", {static_cast<int64_t>(score.rows.tokens.size()), [&] { Score(score, control); }}},
      {"update", {static_cast<int64_t>(update.rows.tokens.size()), [&] { policy.Step(update, control); }}},
  };
  for (const auto& [name, work] : all) {
    if (!works.empty() && std::find(works.begin(), works.end(), name) == works.end()) continue;
    work.second();
    std::vector<double> seconds;
    const Usage before = Used();
    const int repeats = std::atoi(options["--repeats"].c_str());
    for (int i = 0; i < repeats; ++i) {
      const double begin = Seconds();
      work.second();
      seconds.push_back(Seconds() - begin);
    }
    const Usage after = Used();
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    std::printf(
        "%-9s %s %.3f s (%.3f-%.3f)  %.0f tokens/s  processor %.3f s a call  page faults %ld a call\n",
        name.c_str(), options["--dtype"].c_str(), median, seconds.front(), seconds.back(),
        static_cast<double>(work.first) / median, (after.cpu - before.cpu) / repeats,
        (after.faults - before.faults) / repeats);
    std::fflush(stdout);
  }
  if (plain) return 0;
  const workspace::Stats stats = workspace::Read();
  std::printf("workspace: %.1f MB used, %.1f MB kept, %lld system allocations\n",
              1e-6 * static_cast<double>(stats.used_bytes), 1e-6 * static_cast<double>(stats.kept_bytes),
              static_cast<long long>(stats.system_allocations));
  return 0;
}
