#include "core/prompt_reader.h"

#include <algorithm>

#include "core/head.h"
#include "core/score.h"
#include "core/transformer.h"

namespace selfedit {

template <typename T>
void PromptReader<T>::Read(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into) {
  std::vector<int64_t> whole, rests;
  std::vector<ReadPrompt*> into_whole, into_rests;
  for (size_t i = 0; i < chosen.size(); ++i) {
    into[i]->slab = Slab(model_, spec_.prompts.length(chosen[i]));
    const bool behind = PrefixOf(chosen[i]) > 0;
    (behind ? rests : whole).push_back(chosen[i]);
    (behind ? into_rests : into_whole).push_back(into[i]);
  }
  if (!whole.empty()) ReadWhole(whole, into_whole);
  if (!rests.empty()) ReadRests(rests, into_rests);
}

// From their first token on.
template <typename T>
void PromptReader<T>::ReadWhole(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into) {
  std::vector<Slab*> slabs;
  std::vector<int32_t> forks;
  for (size_t i = 0; i < chosen.size(); ++i) {
    slabs.push_back(&into[i]->slab);
    forks.push_back(spec_.prompt_fork[chosen[i]]);
  }
  const Ragged batch = GatherRows(spec_.prompts, chosen);
  PrefillAttention attention(model_.config(), batch.offsets, slabs);
  KeepLogits(batch, Forward(batch, forks, PositionTensor(batch.offsets), attention), into);
}

// Prefixes that nobody has read yet, then what comes behind them.
template <typename T>
void PromptReader<T>::ReadRests(const std::vector<int64_t>& chosen, const std::vector<ReadPrompt*>& into) {
  Ragged fresh, rests;
  std::vector<Slab*> fresh_slabs, slabs;
  std::vector<int32_t> fresh_forks, forks, prefixes;
  std::vector<const Slab*> sources;
  std::map<PrefixKey, Slab> read;  // joins the others when all has gone well
  for (size_t i = 0; i < chosen.size(); ++i) {
    const int64_t p = chosen[i];
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
    slabs.push_back(&into[i]->slab);
    forks.push_back(fork);
    prefixes.push_back(prefix);
  }
  if (fresh.rows() > 0) {
    PrefillAttention attention(model_.config(), fresh.offsets, fresh_slabs);
    Forward(fresh, fresh_forks, PositionTensor(fresh.offsets), attention);
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
  KeepLogits(rests, Forward(rests, forks, positions, attention), into);
  prefixes_.merge(read);
}

template <typename T>
typename PromptReader<T>::Pass PromptReader<T>::Forward(const Ragged& batch,
                                                        const std::vector<int32_t>& forks,
                                                        const at::Tensor& positions, Attention& attention) {
  std::vector<DocumentDeltas> deltas;
  for (const int32_t fork : forks) deltas.push_back({&spec_.forks[fork], nullptr});
  OverlayPlan plan = MakeOverlayPlan(model_, batch.offsets, deltas);
  at::Tensor hidden = TransformerForward(model_, TokenTensor(batch), positions, plan, attention, nullptr);
  return {std::move(plan), std::move(hidden)};
}

template <typename T>
void PromptReader<T>::KeepLogits(const Ragged& batch, const Pass& pass,
                                 const std::vector<ReadPrompt*>& into) {
  std::vector<int64_t> last;
  for (size_t i = 0; i < into.size(); ++i) last.push_back(batch.offsets[i + 1] - 1);
  const at::Tensor logits = HeadLogits(model_, pass.plan, pass.hidden, last);
  for (size_t i = 0; i < into.size(); ++i) into[i]->logits = logits.select(0, i).clone();
}

template class PromptReader<float>;
template class PromptReader<double>;

}  // namespace selfedit
