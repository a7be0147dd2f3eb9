#include "core/generate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <numeric>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/score.h"
#include "core/transformer.h"
#include "cpu/kernels.h"

namespace selfedit {
namespace {

// Keys and values of one sequence: [layers, 2, capacity, kv_heads * head_dim].
struct Slab {
  at::Tensor data;
  int64_t capacity = 0, width = 0;
  Slab() = default;
  Slab(const Model& model, int64_t capacity)
      : data(
            at::empty({model.config().layers, 2, capacity, model.config().kv_heads * model.config().head_dim},
                      model.options())),
        capacity(capacity),
        width(model.config().kv_heads * model.config().head_dim) {}
  template <typename T>
  T* At(int64_t layer, int kv, int64_t position) const {
    return data.mutable_data_ptr<T>() + ((layer * 2 + kv) * capacity + position) * width;
  }
};

struct Prompt {
  Slab slab;
  at::Tensor logits;         // of the last position, [vocab]
  std::deque<int64_t> rows;  // not started yet
  int64_t running = 0;
};

struct Row {
  int64_t index = 0;
  int32_t prompt = 0, fork = 0;
  Slab slab;
  int32_t length = 0;  // tokens in the slab
  int32_t last = 0;    // sampled, not yet processed
  std::string text;    // bytes so far, when stop strings are wanted
  std::shared_ptr<const Materialised> weights;  // of its fork, when it runs on copied rows
};

// Reads prompts: causal attention, keys and values kept.
class PrefillAttention : public RaggedAttention {
 public:
  PrefillAttention(const ModelConfig& config, const std::vector<int32_t>& offsets, std::vector<Slab*> slabs)
      : RaggedAttention(config, offsets), offsets_(offsets), slabs_(std::move(slabs)) {}
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override {
    const int64_t bytes = k.size(1) * static_cast<int64_t>(k.element_size());
    for (size_t d = 0; d < slabs_.size(); ++d) {
      const int64_t begin = offsets_[d] * bytes, count = (offsets_[d + 1] - offsets_[d]) * bytes;
      for (int kv = 0; kv < 2; ++kv) {
        const char* from = static_cast<const char*>((kv == 0 ? k : v).const_data_ptr()) + begin;
        char* to = static_cast<char*>(slabs_[d]->data.mutable_data_ptr()) +
                   (layer * 2 + kv) * slabs_[d]->capacity * bytes;
        std::memcpy(to, from, count);
      }
    }
    RaggedAttention::Forward(layer, q, k, v, out, lse);
  }

 private:
  const std::vector<int32_t>& offsets_;
  std::vector<Slab*> slabs_;
};

// One token a row behind its prompt's and its own keys and values.
template <typename T>
class DecodeAttention : public Attention {
 public:
  DecodeAttention(const ModelConfig& config, const std::vector<Row*>& rows,
                  const std::vector<Prompt>& prompts)
      : config_(config), rows_(rows), prompts_(prompts) {
    const size_t n = rows.size();
    for (auto* list : {&prefix_k_, &prefix_v_, &own_k_, &own_v_}) list->resize(n);
    for (const Row* row : rows) {
      prefix_length_.push_back(static_cast<int32_t>(prompts[row->prompt].slab.capacity));
      own_length_.push_back(row->length + 1);
    }
  }
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor&) override {
    const int64_t width = k.size(1);
    for (size_t b = 0; b < rows_.size(); ++b) {
      const Slab& own = rows_[b]->slab;
      const Slab& prefix = prompts_[rows_[b]->prompt].slab;
      std::copy_n(k.const_data_ptr<T>() + b * width, width, own.At<T>(layer, 0, rows_[b]->length));
      std::copy_n(v.const_data_ptr<T>() + b * width, width, own.At<T>(layer, 1, rows_[b]->length));
      own_k_[b] = own.At<T>(layer, 0, 0);
      own_v_[b] = own.At<T>(layer, 1, 0);
      prefix_k_[b] = prefix.At<T>(layer, 0, 0);
      prefix_v_[b] = prefix.At<T>(layer, 1, 0);
    }
    cpu::AttentionDecode<T>(q.const_data_ptr<T>(), prefix_k_.data(), prefix_v_.data(), prefix_length_.data(),
                            own_k_.data(), own_v_.data(), own_length_.data(),
                            static_cast<int64_t>(rows_.size()), config_.heads, config_.kv_heads,
                            config_.head_dim, T(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
                            out.mutable_data_ptr<T>());
  }

 private:
  const ModelConfig& config_;
  const std::vector<Row*>& rows_;
  const std::vector<Prompt>& prompts_;
  std::vector<const T*> prefix_k_, prefix_v_, own_k_, own_v_;
  std::vector<int32_t> prefix_length_, own_length_;
};

template <typename T>
class Generator {
 public:
  Generator(const GenerateSpec& spec, const JobControl& control)
      : spec_(spec), control_(control), model_(*spec.model), prompts_(spec.prompts.rows()) {
    const size_t rows = spec.row_prompt.size();
    result_.tokens.resize(rows);
    result_.logprobs.resize(rows);
    result_.finish.resize(rows, Finish::kLength);
    for (size_t r = 0; r < rows; ++r) prompts_[spec.row_prompt[r]].rows.push_back(static_cast<int64_t>(r));
    // Prompts of one fork are read together.
    std::vector<int32_t> order(spec.prompts.rows());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return spec.prompt_fork[a] < spec.prompt_fork[b]; });
    for (const int32_t p : order) {
      if (!prompts_[p].rows.empty()) queue_.push_back(p);
    }
    max_rows_ = spec.max_rows > 0 ? spec.max_rows : kDefaultRows;
    int32_t longest = 1;
    for (const int32_t count : spec.max_tokens) longest = std::max(longest, count);
    const int64_t slab_bytes =
        model_.config().layers * 2 * std::min<int64_t>(longest, model_.config().max_positions) *
        model_.config().kv_heads * model_.config().head_dim * static_cast<int64_t>(sizeof(T));
    if (spec.max_rows == 0)
      max_rows_ = std::max<int64_t>(1, std::min(max_rows_, kCacheBytes / std::max<int64_t>(1, slab_bytes)));
  }

  GenerateResult Run() {
    for (;;) {
      Admit();
      if (active_.empty()) break;
      Report();
      Decode();
    }
    Report();
    return std::move(result_);
  }

 private:
  // Once a forward pass, when all rows that it could end have ended.
  void Report() {
    if (steps_ == reported_) return;
    reported_ = steps_;
    control_.Report(
        {static_cast<double>(finished_), static_cast<double>(result_.tokens.size()), steps_, NAN});
  }

  // Fills free places: rows of prompts already read first, then new prompts.
  void Admit() {
    while (static_cast<int64_t>(active_.size()) < max_rows_) {
      control_.Check();
      if (ready_.empty()) {
        if (queue_.empty()) return;
        Report();
        Prefill();
        continue;
      }
      const int32_t p = ready_.front();
      std::vector<int64_t> rows;
      while (!prompts_[p].rows.empty() && static_cast<int64_t>(active_.size() + rows.size()) < max_rows_) {
        rows.push_back(prompts_[p].rows.front());
        prompts_[p].rows.pop_front();
      }
      if (prompts_[p].rows.empty()) ready_.pop_front();
      Start(p, rows);
    }
  }

  void Prefill() {
    std::vector<int64_t> chosen;
    std::vector<DocumentDeltas> deltas;
    std::vector<Slab*> slabs;
    int64_t tokens = 0, rows = static_cast<int64_t>(active_.size());
    while (!queue_.empty()) {
      const int32_t p = queue_.front();
      const int64_t length = spec_.prompts.length(p);
      if (!chosen.empty() && (tokens + length > kDefaultBatchTokens || rows >= max_rows_)) break;
      queue_.pop_front();
      chosen.push_back(p);
      tokens += length;
      rows += static_cast<int64_t>(prompts_[p].rows.size());
      prompts_[p].slab = Slab(model_, length);
      slabs.push_back(&prompts_[p].slab);
      deltas.push_back({&spec_.forks[spec_.prompt_fork[p]], nullptr});
      ready_.push_back(p);
    }
    const Ragged batch = GatherRows(spec_.prompts, chosen);
    const OverlayPlan plan = MakeOverlayPlan(model_, batch.offsets, deltas);
    PrefillAttention attention(model_.config(), batch.offsets, slabs);
    const at::Tensor hidden = TransformerForward(model_, TokenTensor(batch), PositionTensor(batch.offsets),
                                                 plan, attention, nullptr);
    std::vector<int64_t> last;
    for (size_t i = 0; i < chosen.size(); ++i) last.push_back(batch.offsets[i + 1] - 1);
    const at::Tensor logits = HeadLogits(model_, plan, hidden, last);
    for (size_t i = 0; i < chosen.size(); ++i) prompts_[chosen[i]].logits = logits.select(0, i).clone();
    ++steps_;
  }

  void Start(int32_t p, const std::vector<int64_t>& rows) {
    std::vector<Row*> started;
    for (const int64_t index : rows) {
      auto row = std::make_unique<Row>();
      row->index = index;
      row->prompt = p;
      row->fork = spec_.prompt_fork[p];
      row->weights = WeightsFor(row->fork, spec_.max_tokens[index]);
      // The last token is never processed: one place less than maxTokens would do, one is the least.
      const int64_t room = std::min<int64_t>(spec_.max_tokens[index], model_.config().max_positions);
      row->slab = Slab(model_, room);
      started.push_back(row.get());
      active_.push_back(std::move(row));
      ++prompts_[p].running;
    }
    const at::Tensor logits =
        prompts_[p].logits.unsqueeze(0).expand({static_cast<int64_t>(rows.size()), -1}).contiguous();
    Sample(started, logits);
    if (prompts_[p].rows.empty()) prompts_[p].logits = at::Tensor();
    Retire();
    std::stable_sort(active_.begin(), active_.end(),
                     [](const auto& a, const auto& b) {
                       return a->fork != b->fork ? a->fork < b->fork : (a->weights != nullptr) < (b->weights != nullptr);
                     });
  }

  // Copied weights for a row, or null for the overlay. Depends on the row and its fork alone.
  std::shared_ptr<const Materialised> WeightsFor(int32_t fork, int64_t steps) {
    if (spec_.application == Application::kOverlay) return nullptr;
    if (!spec_.materialised.empty() && spec_.materialised[fork]) return spec_.materialised[fork];
    const bool wanted =
        spec_.application == Application::kMaterialised || MaterialisingPays(model_, spec_.forks[fork], steps);
    if (!wanted || spec_.forks[fork].empty()) return nullptr;
    for (const auto& row : active_) {
      if (row->fork == fork && row->weights) return row->weights;
    }
    return Materialised::Make(model_, spec_.forks[fork], control_);
  }

  void Decode() {
    control_.Check();
    std::vector<Row*> rows;
    at::Tensor tokens = at::empty({static_cast<int64_t>(active_.size())}, at::kInt);
    at::Tensor positions = at::empty_like(tokens);
    std::vector<int32_t> offsets{0};
    std::vector<DocumentDeltas> deltas;
    for (size_t b = 0; b < active_.size(); ++b) {
      Row* row = active_[b].get();
      rows.push_back(row);
      tokens.mutable_data_ptr<int32_t>()[b] = row->last;
      positions.mutable_data_ptr<int32_t>()[b] =
          static_cast<int32_t>(spec_.prompts.length(row->prompt)) + row->length;
      offsets.push_back(static_cast<int32_t>(b) + 1);
      deltas.push_back({&spec_.forks[row->fork], nullptr, row->weights.get()});
    }
    const OverlayPlan plan = MakeOverlayPlan(model_, offsets, deltas);
    DecodeAttention<T> attention(model_.config(), rows, prompts_);
    const at::Tensor hidden = TransformerForward(model_, tokens, positions, plan, attention, nullptr);
    for (Row* row : rows) ++row->length;
    std::vector<int64_t> all(rows.size());
    std::iota(all.begin(), all.end(), 0);
    Sample(rows, HeadLogits(model_, plan, hidden, all));
    Retire();
    ++steps_;
  }

  void Sample(const std::vector<Row*>& rows, const at::Tensor& logits) {
    const size_t n = rows.size();
    std::vector<float> temperature(n), top_p(n), logprob(n);
    std::vector<int32_t> top_k(n), token(n);
    std::vector<uint64_t> key(n);
    std::vector<int64_t> position(n);
    for (size_t b = 0; b < n; ++b) {
      const int64_t r = rows[b]->index;
      temperature[b] = spec_.temperature[r];
      top_p[b] = spec_.top_p[r];
      top_k[b] = spec_.top_k[r];
      key[b] = spec_.keys[r];
      position[b] = static_cast<int64_t>(result_.tokens[r].size());
    }
    cpu::SampleRows<T>(logits.const_data_ptr<T>(), static_cast<int64_t>(n), logits.size(1),
                       temperature.data(), top_p.data(), top_k.data(), key.data(), position.data(),
                       token.data(), logprob.data());
    for (size_t b = 0; b < n; ++b) {
      if (token[b] < 0) {
        throw Error("LOSS_NOT_FINITE", "row " + std::to_string(rows[b]->index) + ", token " +
                                           std::to_string(position[b]) + ": the logits are not finite");
      }
      Append(rows[b], token[b], logprob[b]);
    }
  }

  void Append(Row* row, int32_t token, float logprob) {
    auto& tokens = result_.tokens[row->index];
    tokens.push_back(token);
    result_.logprobs[row->index].push_back(logprob);
    row->last = token;
    auto end = [&](Finish finish) {
      result_.finish[row->index] = finish;
      row->prompt = -1 - row->prompt;  // marks it for Retire
    };
    if (std::find(spec_.stop_tokens.begin(), spec_.stop_tokens.end(), token) != spec_.stop_tokens.end()) {
      return end(Finish::kStopToken);
    }
    if (!spec_.stop_strings.empty()) {
      const size_t before = row->text.size();
      row->text += model_.TokenBytes(token);
      for (const std::string& stop : spec_.stop_strings) {
        const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
        if (row->text.find(stop, from) != std::string::npos) return end(Finish::kStopString);
      }
    }
    const int64_t count = static_cast<int64_t>(tokens.size());
    if (count >= spec_.max_tokens[row->index]) return end(Finish::kLength);
    if (spec_.prompts.length(row->prompt) + count >= model_.config().max_positions)
      return end(Finish::kContext);
  }

  void Retire() {
    for (auto& row : active_) {
      if (row->prompt >= 0) continue;
      Prompt& prompt = prompts_[-1 - row->prompt];
      ++finished_;
      if (--prompt.running == 0 && prompt.rows.empty()) prompt.slab = Slab();
      row.reset();
    }
    std::erase(active_, nullptr);
  }

  const GenerateSpec& spec_;
  const JobControl& control_;
  const Model& model_;
  std::vector<Prompt> prompts_;
  std::deque<int32_t> queue_, ready_;
  std::vector<std::unique_ptr<Row>> active_;
  GenerateResult result_;
  int64_t max_rows_ = 0, finished_ = 0;
  double steps_ = 0, reported_ = 0;  // forward passes
};

}  // namespace

void CheckGenerate(const GenerateSpec& spec) {
  const Model& model = *spec.model;
  CheckRagged(spec.prompts, model.config(), "prompt");
  CheckRowForks(spec.prompt_fork, spec.prompts.rows(), spec.forks.size());
  const size_t rows = spec.row_prompt.size();
  if (spec.max_tokens.size() != rows || spec.top_k.size() != rows || spec.temperature.size() != rows ||
      spec.top_p.size() != rows || spec.keys.size() != rows) {
    throw Error("INPUT_INVALID", "every row needs maxTokens, temperature, topP, topK and a key");
  }
  for (size_t r = 0; r < rows; ++r) {
    const std::string name = "row " + std::to_string(r) + ": ";
    if (spec.row_prompt[r] < 0 || spec.row_prompt[r] >= spec.prompts.rows()) {
      throw Error("INPUT_INVALID", name + "prompt index " + std::to_string(spec.row_prompt[r]) + " of " +
                                       std::to_string(spec.prompts.rows()));
    }
    if (spec.max_tokens[r] < 1) throw Error("OPTION_INVALID", name + "maxTokens must be at least 1");
    if (!(spec.temperature[r] >= 0) || !std::isfinite(spec.temperature[r])) {
      throw Error("OPTION_INVALID", name + "temperature must be a number of at least 0");
    }
    if (!(spec.top_p[r] > 0 && spec.top_p[r] <= 1))
      throw Error("OPTION_INVALID", name + "topP must lie in (0, 1]");
    if (spec.top_k[r] < 0) throw Error("OPTION_INVALID", name + "topK must be at least 0");
    const int64_t length = spec.prompts.length(spec.row_prompt[r]);
    if (length >= model.config().max_positions) {
      throw Error("CONTEXT_LENGTH", "prompt " + std::to_string(spec.row_prompt[r]) + " has " +
                                        std::to_string(length) +
                                        " tokens and leaves no room in a context of " +
                                        std::to_string(model.config().max_positions));
    }
  }
  if (!spec.stop_strings.empty() && !model.has_token_bytes()) {
    throw Error("TOKENIZER_INVALID", "stop strings need the tokenizer's byte strings");
  }
  for (const std::string& stop : spec.stop_strings) {
    if (stop.empty()) throw Error("OPTION_INVALID", "a stop string is empty");
  }
}

GenerateResult Generate(const GenerateSpec& spec, const JobControl& control) {
  CheckGenerate(spec);
  if (OnDevice(*spec.model)) return CudaAccelerator().generate(spec, control);
  if (spec.model->activation() == at::kDouble) return Generator<double>(spec, control).Run();
  return Generator<float>(spec, control).Run();
}

}  // namespace selfedit
