// Keys and values kept between forward passes, and the attention that reads and extends them.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/model.h"
#include "core/transformer.h"

namespace selfedit {

// Keys and values of one sequence: [layers, 2, capacity, kv_heads * head_dim].
struct Slab {
  at::Tensor data;
  int64_t capacity = 0, width = 0;
  Slab() = default;
  Slab(const Model& model, int64_t capacity);
  template <typename T>
  T* At(int64_t layer, int kv, int64_t position) const {
    return data.mutable_data_ptr<T>() + ((layer * 2 + kv) * capacity + position) * width;
  }
};

// Reads prompts: causal attention, keys and values kept, a slab a prompt.
class PrefillAttention : public RaggedAttention {
 public:
  PrefillAttention(const ModelConfig& config, const std::vector<int32_t>& offsets, std::vector<Slab*> slabs)
      : RaggedAttention(config, offsets), offsets_(offsets), slabs_(std::move(slabs)) {}
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override;

 private:
  const std::vector<int32_t>& offsets_;
  std::vector<Slab*> slabs_;
};

// What each query of a pass reads, set anew in every layer: a prefix, then what is its own.
template <typename T>
struct CachedKeys {
  explicit CachedKeys(size_t queries);
  void Attend(const ModelConfig& config, int64_t layer, const at::Tensor& q, const at::Tensor& out) const;

  // Of each query's keys only the last `window`.
  CachedKeys Last(int64_t window, int64_t width) const;

  std::vector<const T*> prefix_k, prefix_v, own_k, own_v;
  std::vector<int32_t> prefix_length, own_length;
};

// Reads the rests of prompts behind prefixes whose keys and values lie at the beginning of their slabs: every
// token is a query of its own, over the prefix and over the rest up to itself.
template <typename T>
class RestAttention : public Attention {
 public:
  RestAttention(const ModelConfig& config, const std::vector<int32_t>& offsets,
                const std::vector<Slab*>& slabs, const std::vector<int32_t>& prefixes);
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override;

 private:
  const ModelConfig& config_;
  const std::vector<int32_t>& offsets_;
  const std::vector<Slab*>& slabs_;
  const std::vector<int32_t>& prefixes_;
  CachedKeys<T> keys_;
};

// One token a row, behind its prompt's keys and values and `length` of its own.
struct DecodedRow {
  const Slab* prompt;
  const Slab* own;
  int32_t length;
};
template <typename T>
class DecodeAttention : public Attention {
 public:
  DecodeAttention(const ModelConfig& config, const std::vector<DecodedRow>& rows);
  void Forward(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
               const at::Tensor& out, const at::Tensor& lse) override;

 private:
  const ModelConfig& config_;
  const std::vector<DecodedRow>& rows_;
  CachedKeys<T> keys_;
};

}  // namespace selfedit
