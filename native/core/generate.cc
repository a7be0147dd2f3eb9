#include "core/generate.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

#include "core/accelerator.h"
#include "core/head.h"
#include "core/memory.h"
#include "core/prompt_reader.h"
#include "core/score.h"
#include "core/transformer.h"
#include "core/workspace.h"
#include "cpu/kernels.h"

namespace selfedit {
namespace {

struct Prompt {
  ReadPrompt read;
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

template <typename T>
class Generator {
 public:
  Generator(const GenerateSpec& spec, const JobControl& control)
      : spec_(spec), control_(control), model_(*spec.model), prompts_(spec.prompts.rows()), reader_(spec) {
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
    std::vector<ReadPrompt*> into;
    int64_t tokens = 0, rows = static_cast<int64_t>(active_.size());
    for (const int32_t p : queue_) {
      const int64_t length = spec_.prompts.length(p);
      if (!chosen.empty() && (tokens + length > prefill_tokens_ || rows >= max_rows_)) break;
      chosen.push_back(p);
      tokens += length;
      rows += static_cast<int64_t>(prompts_[p].rows.size());
      into.push_back(&prompts_[p].read);
    }
    reader_.Read(chosen, into);
    // Nothing can fail any more: the prompts are read.
    ready_.insert(ready_.end(), chosen.begin(), chosen.end());
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(chosen.size()));
    ++steps_;
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
        prompts_[p].read.logits.unsqueeze(0).expand({static_cast<int64_t>(started.size()), -1}).contiguous();
    Sample(started, logits);
    if (prompts_[p].rows.empty()) prompts_[p].read.logits = at::Tensor();
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
    std::vector<DecodedRow> decoded;
    for (size_t b = 0; b < rows.size(); ++b) {
      const Row* row = rows[b];
      tokens.mutable_data_ptr<int32_t>()[b] = row->last;
      positions.mutable_data_ptr<int32_t>()[b] =
          static_cast<int32_t>(spec_.prompts.length(row->prompt)) + row->length;
      offsets.push_back(static_cast<int32_t>(b) + 1);
      deltas.push_back({&spec_.forks[row->fork], nullptr, row->weights.get()});
      decoded.push_back({&prompts_[row->prompt].read.slab, &row->slab, row->length});
    }
    const OverlayPlan plan = MakeOverlayPlan(model_, offsets, deltas);
    DecodeAttention<T> attention(model_.config(), decoded);
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
      if (--prompt.running == 0 && prompt.rows.empty()) prompt.read.slab = Slab();
      row.reset();
    }
    std::erase(active_, nullptr);
  }

  const GenerateSpec& spec_;
  const JobControl& control_;
  const Model& model_;
  std::vector<Prompt> prompts_;
  PromptReader<T> reader_;
  std::deque<int32_t> queue_, ready_;
  std::vector<std::unique_ptr<Row>> active_;
  GenerateResult result_;
  int64_t max_rows_ = 0, decode_rows_ = 0, prefill_tokens_ = 0, finished_ = 0;
  bool halved_ = false;
  double steps_ = 0, reported_ = 0;  // forward passes
};

}  // namespace

GenerateResult Generate(const GenerateSpec& spec, const JobControl& control) {
  CheckGenerate(spec);
  if (OnDevice(*spec.model)) return CudaAccelerator().generate(spec, control);
  if (spec.model->activation() == at::kDouble) return Generator<double>(spec, control).Run();
  return Generator<float>(spec, control).Run();
}

}  // namespace selfedit
