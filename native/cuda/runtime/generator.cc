// Prompts are read once per (fork, prompt), their keys and values shared by their rows; finished rows are
// replaced from the queue whenever the host looks.
#include "cuda/runtime/generator.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "cuda/runtime/decode.h"
#include "cuda/runtime/prompt_reader.h"

namespace selfedit::cuda {
namespace {

constexpr int64_t kLookEvery = 8;  // decode steps

struct Prompt {
  ReadPrompt read;           // its logits until all rows have begun
  std::deque<int64_t> rows;  // not begun
  int64_t running = 0;
};

struct Place {
  int64_t row = -1;  // of the call; -1: free
  int32_t prompt = 0;
  std::string text;  // bytes so far, when stop strings are wanted
};

class Generator {
 public:
  Generator(const GenerateSpec& spec, const DeviceModel& model, const MemoryPlan& plan, const Copies& copies,
            const JobControl& control, Generated* result)
      : spec_(spec),
        model_(model),
        control_(control),
        result_(*result),
        prompts_(spec.prompts.rows()),
        order_(Order(spec, *result)),
        deltas_(model),
        reader_(spec, model, deltas_, PrefillCapacity(spec, order_, plan.tokens)),
        step_(model, deltas_, spec.forks, copies, plan.count, LongestRow(spec, model), Positions(spec, model),
              spec.stop_tokens),
        places_(step_.places()) {
    for (size_t r = 0; r < spec.row_prompt.size(); ++r) {
      if (!result_.done[r]) prompts_[spec.row_prompt[r]].rows.push_back(static_cast<int64_t>(r));
    }
    queue_.assign(order_.begin(), order_.end());
  }

  void Run() {
    for (;;) {
      while (Admit()) Report();
      int64_t left = 0;
      for (size_t b = 0; b < places_.size(); ++b) {
        if (places_[b].row >= 0) left = std::max(left, step_.rows()[b].max_tokens - step_.rows()[b].count);
      }
      if (left == 0) break;
      control_.Check();
      step_.Upload();
      for (int64_t i = 0; i < std::min(left, kLookEvery); ++i) step_.Run();
      result_.steps += static_cast<double>(std::min(left, kLookEvery));
      step_.Look();
      Take();
      Report();
    }
  }

 private:
  // Prompts that have rows left, those of one fork together.
  static std::vector<int32_t> Order(const GenerateSpec& spec, const Generated& result) {
    std::vector<bool> wanted(spec.prompts.rows(), false);
    for (size_t r = 0; r < spec.row_prompt.size(); ++r) {
      if (!result.done[r]) wanted[spec.row_prompt[r]] = true;
    }
    std::vector<int32_t> order;
    for (int32_t p = 0; p < spec.prompts.rows(); ++p) {
      if (wanted[p]) order.push_back(p);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return spec.prompt_fork[a] < spec.prompt_fork[b]; });
    return order;
  }
  static BatchCapacity PrefillCapacity(const GenerateSpec& spec, const std::vector<int32_t>& order,
                                       int64_t most) {
    BatchCapacity capacity;
    int64_t total = 0;
    for (const int32_t p : order) {
      total += spec.prompts.length(p);
      capacity.longest = std::max(capacity.longest, spec.prompts.length(p));
    }
    capacity.tokens = (std::max(capacity.longest, std::min(total, most)) + 15) / 16 * 16;
    capacity.rows = std::max<int64_t>(1, std::min<int64_t>(static_cast<int64_t>(order.size()), kMostPlaces));
    return capacity;
  }
  static int64_t Positions(const GenerateSpec& spec, const DeviceModel& model) {
    int64_t most = 1;
    for (size_t r = 0; r < spec.row_prompt.size(); ++r) {
      most = std::max(most, spec.prompts.length(spec.row_prompt[r]) + spec.max_tokens[r]);
    }
    return std::min(most, model.config().max_positions);
  }

  void Report() {
    control_.Report({result_.finished, static_cast<double>(spec_.row_prompt.size()), result_.steps, NAN});
  }

  int64_t FreePlaces() const {
    return std::count_if(places_.begin(), places_.end(), [](const Place& place) { return place.row < 0; });
  }

  // Fills free places; true when something began.
  bool Admit() {
    std::vector<size_t> begun;
    const int64_t most = spec_.max_rows > 0 ? spec_.max_rows : static_cast<int64_t>(places_.size());
    int64_t used = static_cast<int64_t>(places_.size()) - FreePlaces();
    for (size_t b = 0; b < places_.size() && used < most; ++b) {
      if (places_[b].row >= 0) continue;
      if (ready_.empty() && queue_.empty()) break;
      if (ready_.empty()) Prefill(most - used);
      const int32_t p = ready_.front();
      Begin(b, p);
      if (prompts_[p].rows.empty()) ready_.pop_front();
      begun.push_back(b);
      ++used;
    }
    if (begun.empty()) return false;
    // The first tokens, while all that began before stands still.
    std::vector<size_t> waiting;
    for (size_t b = 0; b < places_.size(); ++b) {
      const bool is_new = std::find(begun.begin(), begun.end(), b) != begun.end();
      if (places_[b].row < 0 || is_new) continue;
      step_.rows()[b].finish = kIdle;
      waiting.push_back(b);
    }
    step_.Upload();
    step_.SampleFirst();
    step_.Look();
    Take();
    for (const size_t b : waiting) step_.rows()[b].finish = kRuns;
    return true;
  }

  void Begin(size_t b, int32_t p) {
    Prompt& prompt = prompts_[p];
    const int64_t r = prompt.rows.front();
    prompt.rows.pop_front();
    ++prompt.running;
    places_[b] = {r, p, {}};
    DecodeRow row;
    row.finish = kRuns;
    // What comes behind a shared prefix becomes the beginning of the row's own text.
    row.prefix_length = static_cast<int32_t>(prompt.read.begin.length);
    row.own_length = static_cast<int32_t>(prompt.read.rest.length);
    row.max_tokens =
        static_cast<int32_t>(std::min<int64_t>(spec_.max_tokens[r], model_.config().max_positions));
    row.top_k = spec_.top_k[r];
    row.fork = spec_.prompt_fork[p];
    row.temperature = spec_.temperature[r];
    row.top_p = spec_.top_p[r];
    row.key = spec_.keys[r];
    step_.rows()[b] = row;
    step_.SetPrompt(static_cast<int64_t>(b), prompt.read);
    if (prompt.rows.empty()) prompt.read.logits = at::Tensor();
  }

  // Reads prompts until the rows that they bring fill the places.
  void Prefill(int64_t places) {
    control_.Check();
    std::vector<int32_t> chosen;
    int64_t rows = 0, tokens = 0;
    while (!queue_.empty()) {
      const int32_t p = queue_.front();
      const int64_t length = spec_.prompts.length(p);
      if (!chosen.empty() &&
          (tokens + length > reader_.capacity().tokens ||
           static_cast<int64_t>(chosen.size()) == reader_.capacity().rows || rows >= places)) {
        break;
      }
      queue_.pop_front();
      chosen.push_back(p);
      tokens += length;
      rows += static_cast<int64_t>(prompts_[p].rows.size());
    }
    const std::vector<ReadPrompt> read = reader_.Read(chosen);
    for (size_t i = 0; i < chosen.size(); ++i) {
      prompts_[chosen[i]].read = read[i];
      ready_.push_back(chosen[i]);
    }
    ++result_.steps;
  }

  // What has been generated since the last look; frees the places of rows that have ended.
  void Take() {
    for (size_t b = 0; b < places_.size(); ++b) {
      Place& place = places_[b];
      DecodeRow& row = step_.rows()[b];
      if (place.row < 0 || row.finish == kIdle) continue;
      std::vector<int32_t>& tokens = result_.rows.tokens[place.row];
      bool ended = row.finish != kRuns;
      Finish finish = row.finish == kStopped       ? Finish::kStopToken
                      : row.finish == kContextFull ? Finish::kContext
                                                   : Finish::kLength;
      while (static_cast<int64_t>(tokens.size()) < row.count) {
        const size_t i = tokens.size();
        const int32_t token = step_.tokens(static_cast<int64_t>(b))[i];
        tokens.push_back(token);
        result_.rows.logprobs[place.row].push_back(step_.logprobs(static_cast<int64_t>(b))[i]);
        const bool stop_token = row.finish == kStopped && static_cast<int64_t>(tokens.size()) == row.count;
        if (!stop_token && StopString(place, token)) {
          // Tokens behind it have been generated in vain.
          ended = true;
          finish = Finish::kStopString;
          row.finish = kStopped;
          break;
        }
      }
      if (row.finish == kNotFinite) {
        throw Error("LOSS_NOT_FINITE", "row " + std::to_string(place.row) + ", token " +
                                           std::to_string(tokens.size()) + ": the logits are not finite");
      }
      if (!ended) continue;
      result_.rows.finish[place.row] = finish;
      result_.done[place.row] = true;
      ++result_.finished;
      Prompt& prompt = prompts_[place.prompt];
      if (--prompt.running == 0 && prompt.rows.empty()) prompt.read = ReadPrompt();
      place.row = -1;
      row = DecodeRow();
      step_.Free(static_cast<int64_t>(b));
    }
  }

  bool StopString(Place& place, int32_t token) const {
    if (spec_.stop_strings.empty()) return false;
    const size_t before = place.text.size();
    place.text += model_.host().TokenBytes(token);
    for (const std::string& stop : spec_.stop_strings) {
      const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
      if (place.text.find(stop, from) != std::string::npos) return true;
    }
    return false;
  }

  const GenerateSpec& spec_;
  const DeviceModel& model_;
  const JobControl& control_;
  Generated& result_;
  std::vector<Prompt> prompts_;
  std::vector<int32_t> order_;
  FrozenDeltas deltas_;
  PromptReader reader_;
  DecodeStep step_;
  std::vector<Place> places_;
  std::deque<int32_t> queue_, ready_;
};

}  // namespace

void GenerateRows(const GenerateSpec& spec, const DeviceModel& model, const MemoryPlan& plan,
                  const Copies& copies, const JobControl& control, Generated* result) {
  Generator(spec, model, plan, copies, control, result).Run();
}

int64_t LongestRow(const GenerateSpec& spec, const DeviceModel& model) {
  int64_t longest = 1;
  for (size_t r = 0; r < spec.row_prompt.size(); ++r) {
    const int32_t p = spec.row_prompt[r], prefix = PrefixOf(spec, p);
    const int64_t rest = prefix > 0 ? spec.prompts.length(p) - prefix : 0;
    longest = std::max<int64_t>(longest, rest + spec.max_tokens[r]);
  }
  return std::min(longest, model.config().max_positions);
}

}  // namespace selfedit::cuda
