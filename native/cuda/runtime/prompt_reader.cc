#include "cuda/runtime/prompt_reader.h"

#include <algorithm>
#include <numeric>

#include "cuda/runtime/backend.h"

namespace selfedit::cuda {
namespace {

enum Address : int64_t { kPrefixK, kPrefixV, kOwnK, kOwnV, kAddresses };

int64_t AddressOf(const at::Tensor& slab, int64_t layer, int64_t kv, int64_t token) {
  return static_cast<int64_t>(
      reinterpret_cast<intptr_t>(slab.select(0, layer).select(0, kv).select(0, token).const_data_ptr()));
}

// Keys and values of all tokens of a batch, laid down as the layers make them.
void Keep(const LayerAttention& a, int64_t tokens, const at::Tensor& slab) {
  Convert(a.k.narrow(0, 0, tokens), slab.select(0, a.layer).select(0, 0));
  Convert(a.v.narrow(0, 0, tokens), slab.select(0, a.layer).select(0, 1));
}

std::vector<KeysValues> Split(const at::Tensor& slab, const Ragged& texts) {
  std::vector<KeysValues> pieces;
  for (int64_t t = 0; t < texts.rows(); ++t) pieces.push_back({slab, texts.offsets[t], texts.length(t)});
  return pieces;
}

}  // namespace

PromptReader::PromptReader(const GenerateSpec& spec, const DeviceModel& model, FrozenDeltas& deltas,
                           const BatchCapacity& capacity)
    : spec_(spec),
      model_(model),
      capacity_(capacity),
      pass_(model, capacity, std::nullopt),
      forks_(model, deltas, spec.forks, capacity),
      head_(model, capacity.rows, false),
      head_forks_(model, deltas, spec.forks, {capacity.rows, capacity.rows, 1}) {
  if (std::all_of(spec.shared_prefix.begin(), spec.shared_prefix.end(), [](int32_t n) { return n == 0; }))
    return;
  addresses_ = at::zeros({model.config().layers, kAddresses, capacity.tokens}, model.options(at::kLong));
  lengths_ = at::zeros({2, capacity.tokens}, model.options(at::kInt));
}

std::vector<ReadPrompt> PromptReader::Read(const std::vector<int32_t>& prompts) {
  Ragged whole, fresh, rests;
  std::vector<int32_t> whole_fork, fresh_fork, rest_fork;
  std::vector<PrefixKey> fresh_key, rest_key;
  for (const int32_t p : prompts) {
    const int32_t* tokens = spec_.prompts.tokens.data() + spec_.prompts.offsets[p];
    const int32_t prefix = PrefixOf(spec_, p), fork = spec_.prompt_fork[p];
    if (prefix == 0) {
      whole.Append(tokens, spec_.prompts.length(p));
      whole_fork.push_back(fork);
      continue;
    }
    rest_key.push_back({fork, {tokens, tokens + prefix}});
    if (prefixes_.count(rest_key.back()) == 0 &&
        std::find(fresh_key.begin(), fresh_key.end(), rest_key.back()) == fresh_key.end()) {
      fresh.Append(tokens, prefix);
      fresh_fork.push_back(fork);
      fresh_key.push_back(rest_key.back());
    }
    rests.Append(tokens + prefix, spec_.prompts.length(p) - prefix);
    rest_fork.push_back(fork);
  }
  std::vector<KeysValues> wholes, behind, begins;
  at::Tensor whole_logits, rest_logits;
  if (whole.rows() > 0) {
    wholes = ReadTexts(whole, whole_fork);
    whole_logits = Logits(whole, whole_fork);
  }
  if (fresh.rows() > 0) {
    const std::vector<KeysValues> read = ReadTexts(fresh, fresh_fork);
    for (size_t i = 0; i < read.size(); ++i) prefixes_[fresh_key[i]] = read[i];
  }
  if (rests.rows() > 0) {
    for (const PrefixKey& key : rest_key) begins.push_back(prefixes_.at(key));
    behind = ReadRests(rests, rest_fork, begins);
    rest_logits = Logits(rests, rest_fork);
  }
  std::vector<ReadPrompt> read;
  int64_t next_whole = 0, next_rest = 0;
  for (const int32_t p : prompts) {
    if (PrefixOf(spec_, p) == 0) {
      read.push_back({wholes[next_whole], KeysValues(), whole_logits.select(0, next_whole)});
      ++next_whole;
    } else {
      read.push_back({begins[next_rest], behind[next_rest], rest_logits.select(0, next_rest)});
      ++next_rest;
    }
  }
  return read;
}

at::Tensor PromptReader::MakeSlab(int64_t tokens) const {
  const ModelConfig& config = model_.config();
  return at::empty({config.layers, 2, tokens, config.kv_heads * config.head_dim}, model_.options());
}

std::vector<KeysValues> PromptReader::ReadTexts(const Ragged& texts, const std::vector<int32_t>& fork) {
  const int64_t n = texts.offsets.back();
  const at::Tensor slab = MakeSlab(n);
  pass_.Load(texts, std::vector<int32_t>(texts.tokens.size(), -1));
  forks_.Load(texts.offsets, fork);
  pass_.Forward(forks_.overlays(), [&](const LayerAttention& a) { Keep(a, n, slab); });
  return Split(slab, texts);
}

// Every token is a query of its own, over the prefix and over the rest up to itself.
std::vector<KeysValues> PromptReader::ReadRests(const Ragged& rests, const std::vector<int32_t>& fork,
                                                const std::vector<KeysValues>& begins) {
  const ModelConfig& config = model_.config();
  const int64_t n = rests.offsets.back(), T = capacity_.tokens;
  const at::Tensor slab = MakeSlab(n);
  at::Tensor addresses = at::zeros({config.layers, kAddresses, T}, at::kLong);
  at::Tensor lengths = at::zeros({2, T}, at::kInt);
  std::vector<int32_t> first;
  for (int64_t d = 0; d < rests.rows(); ++d) {
    first.push_back(static_cast<int32_t>(begins[d].length));
    for (int64_t i = 0; i < rests.length(d); ++i) {
      lengths.mutable_data_ptr<int32_t>()[rests.offsets[d] + i] = first.back();
      lengths.mutable_data_ptr<int32_t>()[T + rests.offsets[d] + i] = static_cast<int32_t>(i) + 1;
    }
    for (int64_t lane = 0; lane < config.layers * 2; ++lane) {
      const int64_t layer = lane / 2, kv = lane % 2;
      int64_t* row = addresses.mutable_data_ptr<int64_t>() + layer * kAddresses * T + rests.offsets[d];
      std::fill_n(row + (kPrefixK + kv) * T, rests.length(d),
                  AddressOf(begins[d].slab, layer, kv, begins[d].offset));
      std::fill_n(row + (kOwnK + kv) * T, rests.length(d), AddressOf(slab, layer, kv, rests.offsets[d]));
    }
  }
  UploadInto(addresses, addresses_);
  UploadInto(lengths, lengths_);
  pass_.Load(rests, std::vector<int32_t>(rests.tokens.size(), -1), first);
  forks_.Load(rests.offsets, fork);
  const AttentionShape whole = pass_.shape();
  pass_.pass().Forward(pass_.rows(), forks_.overlays(), [&](const LayerAttention& a) {
    Keep(a, n, slab);
    const int64_t* table = addresses_.const_data_ptr<int64_t>() + a.layer * kAddresses * T;
    DecodeShape shape;
    shape.rows = T;
    shape.H = whole.H;
    shape.G = whole.G;
    shape.d = whole.d;
    shape.q_stride = whole.q_stride;
    shape.kv_stride = whole.kv_stride;
    shape.scale = whole.scale;
    shape.window = config.Window(a.layer);
    shape.prefix_k = reinterpret_cast<const void* const*>(table + kPrefixK * T);
    shape.prefix_v = reinterpret_cast<const void* const*>(table + kPrefixV * T);
    shape.own_k = reinterpret_cast<void* const*>(table + kOwnK * T);
    shape.own_v = reinterpret_cast<void* const*>(table + kOwnV * T);
    shape.prefix_length = lengths_.const_data_ptr<int32_t>();
    shape.own_length = lengths_.const_data_ptr<int32_t>() + T;
    Launch(AttentionDecode, model_.type(), shape, a.q.const_data_ptr(), int32_t{0}, int64_t{1},
           static_cast<float*>(nullptr), a.out.mutable_data_ptr());
  });
  return Split(slab, rests);
}

at::Tensor PromptReader::Logits(const Ragged& texts, const std::vector<int32_t>& fork) {
  at::Tensor last = at::empty({texts.rows()}, at::kLong);
  for (int64_t t = 0; t < texts.rows(); ++t) last.mutable_data_ptr<int64_t>()[t] = texts.offsets[t + 1] - 1;
  const at::Tensor hidden = at::index_select(pass_.pass().hidden(), 0, Upload(last, model_.device()));
  const at::Tensor logits =
      at::empty({hidden.size(0), model_.config().vocab_size}, model_.options(at::kFloat));
  std::vector<int32_t> one_each(texts.rows() + 1);
  std::iota(one_each.begin(), one_each.end(), 0);
  head_forks_.Load(one_each, fork);
  head_.Logits(hidden, head_forks_.overlays(), hidden.size(0), logits);
  return logits;
}

}  // namespace selfedit::cuda
