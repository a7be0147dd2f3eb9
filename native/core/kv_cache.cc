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
void CachedKeys<T>::Attend(const ModelConfig& config, const at::Tensor& q, const at::Tensor& out) const {
  cpu::AttentionDecode<T>(
      q.const_data_ptr<T>(), prefix_k.data(), prefix_v.data(), prefix_length.data(), own_k.data(),
      own_v.data(), own_length.data(), static_cast<int64_t>(own_k.size()), config.heads, config.kv_heads,
      config.head_dim, T(1.0 / std::sqrt(static_cast<double>(config.head_dim))), out.mutable_data_ptr<T>());
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
  keys_.Attend(config_, q, out);
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
  keys_.Attend(config_, q, out);
}

template struct CachedKeys<float>;
template struct CachedKeys<double>;
template class RestAttention<float>;
template class RestAttention<double>;
template class DecodeAttention<float>;
template class DecodeAttention<double>;

}  // namespace selfedit
