#include "core/generate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <numeric>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/score.h"
#include "core/transformer.h"
#include "core/workspace.h"
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
  int32_t length = 0;                           // tokens in the slab
  int32_t last = 0;                             // sampled, not yet processed
  std::string text;                             // bytes so far, when stop strings are wanted
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

// Reads the rests of prompts behind prefixes whose keys and values lie at the beginning of their slabs: every
// token is a query of its own, over the prefix and over the rest up to itself.
template <typename T>
class RestAttention : public Attention {
 public:
  RestAttention(const ModelConfig& config, const std::vector<int32_t>& offsets,
                const std::vector<Slab*>& slabs, const std::vector<int32_t>& prefixes)
      : config_(config), offsets_(offsets), slabs_(slabs), prefixes_(prefixes) {
    for (size_t d = 0; d < slabs.size(); ++d) {
      for (int32_t i = 0; i < offsets[d + 1] - offsets[d]; ++i) {
        prefix_length_.push_back(prefixes[d]);
        own_length_.push_back(i + 1);
      }
    }
    for (auto* list : {&prefix_k_, &prefix_v_, &own_k_, &own_v_}) list->resize(own_length_.size());
  }
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor&) override {
    const int64_t width = k.size(1);
    for (size_t d = 0; d < slabs_.size(); ++d) {
      const int64_t begin = offsets_[d], count = offsets_[d + 1] - begin;
      const Slab& slab = *slabs_[d];
      std::copy_n(k.const_data_ptr<T>() + begin * width, count * width, slab.At<T>(layer, 0, prefixes_[d]));
      std::copy_n(v.const_data_ptr<T>() + begin * width, count * width, slab.At<T>(layer, 1, prefixes_[d]));
      for (int64_t t = begin; t < begin + count; ++t) {
        prefix_k_[t] = slab.At<T>(layer, 0, 0);
        prefix_v_[t] = slab.At<T>(layer, 1, 0);
        own_k_[t] = slab.At<T>(layer, 0, prefixes_[d]);
        own_v_[t] = slab.At<T>(layer, 1, prefixes_[d]);
      }
    }
    cpu::AttentionDecode<T>(q.const_data_ptr<T>(), prefix_k_.data(), prefix_v_.data(), prefix_length_.data(),
                            own_k_.data(), own_v_.data(), own_length_.data(),
                            static_cast<int64_t>(own_k_.size()), config_.heads, config_.kv_heads,
                            config_.head_dim, T(1.0 / std::sqrt(static_cast<double>(config_.head_dim))),
                            out.mutable_data_ptr<T>());
  }

 private:
  const ModelConfig& config_;
  const std::vector<int32_t>& offsets_;
  const std::vector<Slab*>& slabs_;
  const std::vector<int32_t>& prefixes_;
  std::vector<const T*> prefix_k_, prefix_v_, own_k_, own_v_;
  std::vector<int32_t> prefix_length_, own_length_;
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
    const MemoryPlan plan = PlanGenerate(spec);
    max_rows_ = decode_rows_ = plan.count;
    prefill_tokens_ = plan.tokens;
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

  // Fills free places. When memory ends, rows that run go on and free it; without any, half as much is tried
  // once.
  void Admit() {
    try {
      FillPlaces();
    } catch (...) {
      if (!OutOfMemoryNow() || (active_.empty() && halved_)) throw;
      workspace::Trim();
      if (!active_.empty()) {
        max_rows_ = static_cast<int64_t>(active_.size());
      } else {
        halved_ = true;
        max_rows_ = std::max<int64_t>(1, max_rows_ / 2);
        prefill_tokens_ = std::max<int64_t>(1, prefill_tokens_ / 2);
      }
      control_.Warn("generate: not enough memory for another row; going on with " +
                    std::to_string(max_rows_) + " at once");
      if (active_.empty()) FillPlaces();
    }
  }

  // Rows of prompts already read first, then new prompts.
  void FillPlaces() {
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
      for (const int64_t row : prompts_[p].rows) {
        if (static_cast<int64_t>(active_.size() + rows.size()) >= max_rows_) break;
        rows.push_back(row);
      }
      std::vector<std::unique_ptr<Row>> made = MakeRows(p, rows);  // may fail: nothing has changed yet
      prompts_[p].rows.erase(prompts_[p].rows.begin(),
                             prompts_[p].rows.begin() + static_cast<int64_t>(rows.size()));
      if (prompts_[p].rows.empty()) ready_.pop_front();
      Start(p, std::move(made));
    }
  }

  void Prefill() {
    std::vector<int64_t> chosen;
    int64_t tokens = 0, rows = static_cast<int64_t>(active_.size());
    for (const int32_t p : queue_) {
      const int64_t length = spec_.prompts.length(p);
      if (!chosen.empty() && (tokens + length > prefill_tokens_ || rows >= max_rows_)) break;
      chosen.push_back(p);
      tokens += length;
      rows += static_cast<int64_t>(prompts_[p].rows.size());
      prompts_[p].slab = Slab(model_, length);
    }
    std::vector<int64_t> whole, rests;
    for (const int64_t p : chosen) (PrefixOf(p) > 0 ? rests : whole).push_back(p);
    if (!whole.empty()) ReadPrompts(whole);
    if (!rests.empty()) ReadRests(rests);
    // Nothing can fail any more: the prompts are read.
    ready_.insert(ready_.end(), chosen.begin(), chosen.end());
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(chosen.size()));
    ++steps_;
  }

  int32_t PrefixOf(int64_t p) const { return spec_.shared_prefix.empty() ? 0 : spec_.shared_prefix[p]; }

  // Prompts from their first token on.
  void ReadPrompts(const std::vector<int64_t>& chosen) {
    std::vector<Slab*> slabs;
    std::vector<int32_t> forks;
    for (const int64_t p : chosen) {
      slabs.push_back(&prompts_[p].slab);
      forks.push_back(spec_.prompt_fork[p]);
    }
    const Ragged batch = GatherRows(spec_.prompts, chosen);
    PrefillAttention attention(model_.config(), batch.offsets, slabs);
    KeepLogits(chosen, batch, Read(batch, forks, PositionTensor(batch.offsets), attention));
  }

  // Prefixes that nobody has read yet, then what comes behind them.
  void ReadRests(const std::vector<int64_t>& chosen) {
    Ragged fresh, rests;
    std::vector<Slab*> fresh_slabs, slabs;
    std::vector<int32_t> fresh_forks, forks, prefixes;
    std::vector<const Slab*> sources;
    std::map<PrefixKey, Slab> read;  // joins the others when all has gone well
    for (const int64_t p : chosen) {
      const int32_t* tokens = spec_.prompts.tokens.data() + spec_.prompts.offsets[p];
      const int32_t prefix = PrefixOf(p), fork = spec_.prompt_fork[p];
      const PrefixKey key{fork, {tokens, tokens + prefix}};
      const auto known = prefixes_.find(key);
      if (known != prefixes_.end()) {
        sources.push_back(&known->second);
      } else {
        const auto [place, added] = read.try_emplace(key);
        if (added) {
          place->second = Slab(model_, prefix);
          fresh.Append(tokens, prefix);
          fresh_slabs.push_back(&place->second);
          fresh_forks.push_back(fork);
        }
        sources.push_back(&place->second);
      }
      rests.Append(tokens + prefix, spec_.prompts.length(p) - prefix);
      slabs.push_back(&prompts_[p].slab);
      forks.push_back(fork);
      prefixes.push_back(prefix);
    }
    if (fresh.rows() > 0) {
      PrefillAttention attention(model_.config(), fresh.offsets, fresh_slabs);
      Read(fresh, fresh_forks, PositionTensor(fresh.offsets), attention);
    }
    at::Tensor positions = PositionTensor(rests.offsets);
    for (size_t d = 0; d < chosen.size(); ++d) {
      for (int64_t lane = 0; lane < model_.config().layers * 2; ++lane) {
        std::copy_n(sources[d]->template At<T>(lane / 2, lane % 2, 0), prefixes[d] * slabs[d]->width,
                    slabs[d]->template At<T>(lane / 2, lane % 2, 0));
      }
      positions.narrow(0, rests.offsets[d], rests.length(d)).add_(prefixes[d]);
    }
    RestAttention<T> attention(model_.config(), rests.offsets, slabs, prefixes);
    KeepLogits(chosen, rests, Read(rests, forks, positions, attention));
    prefixes_.merge(read);
  }

  struct ReadPass {
    OverlayPlan plan;
    at::Tensor hidden;
  };
  ReadPass Read(const Ragged& batch, const std::vector<int32_t>& forks, const at::Tensor& positions,
                Attention& attention) {
    std::vector<DocumentDeltas> deltas;
    for (const int32_t fork : forks) deltas.push_back({&spec_.forks[fork], nullptr});
    OverlayPlan plan = MakeOverlayPlan(model_, batch.offsets, deltas);
    at::Tensor hidden = TransformerForward(model_, TokenTensor(batch), positions, plan, attention, nullptr);
    return {std::move(plan), std::move(hidden)};
  }
  void KeepLogits(const std::vector<int64_t>& chosen, const Ragged& batch, const ReadPass& pass) {
    std::vector<int64_t> last;
    for (size_t i = 0; i < chosen.size(); ++i) last.push_back(batch.offsets[i + 1] - 1);
    const at::Tensor logits = HeadLogits(model_, pass.plan, pass.hidden, last);
    for (size_t i = 0; i < chosen.size(); ++i) prompts_[chosen[i]].logits = logits.select(0, i).clone();
  }

  std::vector<std::unique_ptr<Row>> MakeRows(int32_t p, const std::vector<int64_t>& indices) {
    std::vector<std::unique_ptr<Row>> made;
    for (const int64_t index : indices) {
      auto row = std::make_unique<Row>();
      row->index = index;
      row->prompt = p;
      row->fork = spec_.prompt_fork[p];
      row->weights = WeightsFor(row->fork, spec_.max_tokens[index], made);
      // The last token is never processed: one place less than maxTokens would do, one is the least.
      const int64_t room = std::min<int64_t>(spec_.max_tokens[index], model_.config().max_positions);
      row->slab = Slab(model_, room);
      made.push_back(std::move(row));
    }
    return made;
  }

  void Start(int32_t p, std::vector<std::unique_ptr<Row>> made) {
    std::vector<Row*> started;
    for (auto& row : made) {
      started.push_back(row.get());
      active_.push_back(std::move(row));
      ++prompts_[p].running;
    }
    const at::Tensor logits =
        prompts_[p].logits.unsqueeze(0).expand({static_cast<int64_t>(started.size()), -1}).contiguous();
    Sample(started, logits);
    if (prompts_[p].rows.empty()) prompts_[p].logits = at::Tensor();
    Retire();
    std::stable_sort(active_.begin(), active_.end(), [](const auto& a, const auto& b) {
      return a->fork != b->fork ? a->fork < b->fork : (a->weights != nullptr) < (b->weights != nullptr);
    });
  }

  // Copied weights for a row, or null for the overlay. Depends on the row and its fork alone.
  std::shared_ptr<const Materialised> WeightsFor(int32_t fork, int64_t steps,
                                                 const std::vector<std::unique_ptr<Row>>& made) {
    if (spec_.application == Application::kOverlay) return nullptr;
    if (!spec_.materialised.empty() && spec_.materialised[fork]) return spec_.materialised[fork];
    const bool wanted = spec_.application == Application::kMaterialised ||
                        MaterialisingPays(model_, spec_.forks[fork], steps);
    if (!wanted || spec_.forks[fork].empty()) return nullptr;
    for (const std::vector<std::unique_ptr<Row>>* rows : {&std::as_const(active_), &made}) {
      for (const auto& row : *rows) {
        if (row->fork == fork && row->weights) return row->weights;
      }
    }
    return Materialised::Make(model_, spec_.forks[fork], control_);
  }

  // One token of every row; after an allocation failure by halves.
  void Decode() {
    control_.Check();
    std::vector<Row*> all;
    for (const auto& row : active_) all.push_back(row.get());
    for (size_t begin = 0; begin < all.size();) {
      const size_t count = std::min(all.size() - begin, static_cast<size_t>(decode_rows_));
      const std::vector<Row*> rows(all.begin() + static_cast<int64_t>(begin),
                                   all.begin() + static_cast<int64_t>(begin + count));
      try {
        DecodeRows(rows);
      } catch (...) {
        // A step that fails has changed no row: the keys and values that it wrote are written again.
        if (!OutOfMemoryNow() || halved_ || count < 2) throw;
        halved_ = true;
        workspace::Trim();
        decode_rows_ = max_rows_ = static_cast<int64_t>(count / 2);
        control_.Warn("generate: not enough memory to decode " + std::to_string(count) +
                      " rows; going on with " + std::to_string(decode_rows_) + " at once");
        continue;
      }
      begin += count;
    }
    Retire();
    ++steps_;
  }

  void DecodeRows(const std::vector<Row*>& rows) {
    at::Tensor tokens = at::empty({static_cast<int64_t>(rows.size())}, at::kInt);
    at::Tensor positions = at::empty_like(tokens);
    std::vector<int32_t> offsets{0};
    std::vector<DocumentDeltas> deltas;
    for (size_t b = 0; b < rows.size(); ++b) {
      const Row* row = rows[b];
      tokens.mutable_data_ptr<int32_t>()[b] = row->last;
      positions.mutable_data_ptr<int32_t>()[b] =
          static_cast<int32_t>(spec_.prompts.length(row->prompt)) + row->length;
      offsets.push_back(static_cast<int32_t>(b) + 1);
      deltas.push_back({&spec_.forks[row->fork], nullptr, row->weights.get()});
    }
    const OverlayPlan plan = MakeOverlayPlan(model_, offsets, deltas);
    DecodeAttention<T> attention(model_.config(), rows, prompts_);
    const at::Tensor hidden = TransformerForward(model_, tokens, positions, plan, attention, nullptr);
    std::vector<int64_t> all(rows.size());
    std::iota(all.begin(), all.end(), 0);
    const at::Tensor logits = HeadLogits(model_, plan, hidden, all);
    for (Row* row : rows) ++row->length;
    Sample(rows, logits);
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
  using PrefixKey = std::pair<int32_t, std::vector<int32_t>>;  // fork and tokens
  std::map<PrefixKey, Slab> prefixes_;                         // keys and values, until the call ends
  std::deque<int32_t> queue_, ready_;
  std::vector<std::unique_ptr<Row>> active_;
  GenerateResult result_;
  int64_t max_rows_ = 0, decode_rows_ = 0, prefill_tokens_ = 0, finished_ = 0;
  bool halved_ = false;
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
  if (!spec.shared_prefix.empty() && static_cast<int64_t>(spec.shared_prefix.size()) != spec.prompts.rows()) {
    throw Error("INPUT_INVALID", "every prompt needs the length of its shared prefix");
  }
  for (size_t p = 0; p < spec.shared_prefix.size(); ++p) {
    const int64_t length = spec.prompts.length(static_cast<int64_t>(p));
    if (spec.shared_prefix[p] >= 0 && spec.shared_prefix[p] < length) continue;
    throw Error("OPTION_INVALID", "prompt " + std::to_string(p) + ": the shared prefix has " +
                                      std::to_string(spec.shared_prefix[p]) +
                                      " tokens; expected less than the prompt's " + std::to_string(length));
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
