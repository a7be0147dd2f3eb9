#include "core/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/kernels.h"

namespace selfedit {

Slab::Slab(const Model& model, int64_t capacity)
    : data(at::empty({model.config().layers, 2, capacity, model.config().kv_heads * model.config().head_dim},
                     model.options())),
      capacity(capacity),
      width(model.config().kv_heads * model.config().head_dim) {}

void PrefillAttention::Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor& lse) {
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

template <typename T>
CachedKeys<T>::CachedKeys(size_t queries) {
  for (auto* list : {&prefix_k, &prefix_v, &own_k, &own_v}) list->resize(queries);
  prefix_length.reserve(queries);
  own_length.reserve(queries);
}

template <typename T>
void CachedKeys<T>::Attend(const ModelConfig& config, int64_t layer, const at::Tensor& q,
                           const at::Tensor& out) const {
  const int64_t window = config.Window(layer);
  const CachedKeys seen = window > 0 ? Last(window, config.kv_heads * config.head_dim) : CachedKeys(0);
  const CachedKeys& keys = window > 0 ? seen : *this;
  cpu::AttentionDecode<T>(
      q.const_data_ptr<T>(), keys.prefix_k.data(), keys.prefix_v.data(), keys.prefix_length.data(),
      keys.own_k.data(), keys.own_v.data(), keys.own_length.data(), static_cast<int64_t>(own_k.size()),
      config.heads, config.kv_heads, config.head_dim, T(config.AttentionScale()), out.mutable_data_ptr<T>());
}

template <typename T>
CachedKeys<T> CachedKeys<T>::Last(int64_t window, int64_t width) const {
  CachedKeys seen = *this;
  for (size_t i = 0; i < own_k.size(); ++i) {
    const int64_t beyond = std::max<int64_t>(0, prefix_length[i] + own_length[i] - window);
    const int64_t prefix = std::min<int64_t>(beyond, prefix_length[i]), own = beyond - prefix;
    seen.prefix_k[i] += prefix * width;
    seen.prefix_v[i] += prefix * width;
    seen.prefix_length[i] -= static_cast<int32_t>(prefix);
    seen.own_k[i] += own * width;
    seen.own_v[i] += own * width;
    seen.own_length[i] -= static_cast<int32_t>(own);
  }
  return seen;
}

template <typename T>
RestAttention<T>::RestAttention(const ModelConfig& config, const std::vector<int32_t>& offsets,
                                const std::vector<Slab*>& slabs, const std::vector<int32_t>& prefixes)
    : config_(config), offsets_(offsets), slabs_(slabs), prefixes_(prefixes), keys_(offsets.back()) {
  for (size_t d = 0; d < slabs.size(); ++d) {
    for (int32_t i = 0; i < offsets[d + 1] - offsets[d]; ++i) {
      keys_.prefix_length.push_back(prefixes[d]);
      keys_.own_length.push_back(i + 1);
    }
  }
}

template <typename T>
void RestAttention<T>::Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& out, const at::Tensor&) {
  const int64_t width = k.size(1);
  for (size_t d = 0; d < slabs_.size(); ++d) {
    const int64_t begin = offsets_[d], count = offsets_[d + 1] - begin;
    const Slab& slab = *slabs_[d];
    T* own_k = slab.At<T>(layer, 0, prefixes_[d]);
    T* own_v = slab.At<T>(layer, 1, prefixes_[d]);
    std::copy_n(k.const_data_ptr<T>() + begin * width, count * width, own_k);
    std::copy_n(v.const_data_ptr<T>() + begin * width, count * width, own_v);
    for (int64_t t = begin; t < begin + count; ++t) {
      keys_.prefix_k[t] = slab.At<T>(layer, 0, 0);
      keys_.prefix_v[t] = slab.At<T>(layer, 1, 0);
      keys_.own_k[t] = own_k;
      keys_.own_v[t] = own_v;
    }
  }
  keys_.Attend(config_, layer, q, out);
}

template <typename T>
DecodeAttention<T>::DecodeAttention(const ModelConfig& config, const std::vector<DecodedRow>& rows)
    : config_(config), rows_(rows), keys_(rows.size()) {
  for (const DecodedRow& row : rows) {
    keys_.prefix_length.push_back(static_cast<int32_t>(row.prompt->capacity));
    keys_.own_length.push_back(row.length + 1);
  }
}

template <typename T>
void DecodeAttention<T>::Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& out, const at::Tensor&) {
  const int64_t width = k.size(1);
  for (size_t b = 0; b < rows_.size(); ++b) {
    const auto& [prompt, own, length] = rows_[b];
    std::copy_n(k.const_data_ptr<T>() + b * width, width, own->At<T>(layer, 0, length));
    std::copy_n(v.const_data_ptr<T>() + b * width, width, own->At<T>(layer, 1, length));
    keys_.own_k[b] = own->At<T>(layer, 0, 0);
    keys_.own_v[b] = own->At<T>(layer, 1, 0);
    keys_.prefix_k[b] = prompt->At<T>(layer, 0, 0);
    keys_.prefix_v[b] = prompt->At<T>(layer, 1, 0);
  }
  keys_.Attend(config_, layer, q, out);
}

template struct CachedKeys<float>;
template struct CachedKeys<double>;
template class RestAttention<float>;
template class RestAttention<double>;
template class DecodeAttention<float>;
template class DecodeAttention<double>;

}  // namespace selfedit
