#include "core/head.h"

#include "cpu/kernels.h"

namespace selfedit {
namespace {

// A chunk of float32 logits over 49,152 tokens is 25 MB: it stays in the last-level cache.
constexpr int64_t kChunkRows = 128;

at::Tensor IndexTensor(const int64_t* rows, int64_t count) {
  at::Tensor index = at::empty({count}, at::kLong);
  std::copy_n(rows, count, index.mutable_data_ptr<int64_t>());
  return index;
}

at::Tensor ChunkLogits(const Model& model, const at::Tensor& hidden, const at::Tensor& index) {
  return model.head().Forward(at::index_select(hidden, 0, index)).contiguous();
}

template <typename T>
struct ChunkScratch {
  std::vector<T> logprob, lse, entropy, g, e;
  explicit ChunkScratch(int64_t count) : logprob(count), lse(count), entropy(count), g(count), e(count) {}
};

template <typename T>
std::vector<double> LogprobsTyped(const Model& model, const at::Tensor& hidden, const HeadRows& rows,
                                  double temperature) {
  std::vector<double> result(rows.size());
  ChunkScratch<T> scratch(kChunkRows);
  for (int64_t begin = 0; begin < rows.size(); begin += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows.size() - begin);
    const at::Tensor logits = ChunkLogits(model, hidden, IndexTensor(rows.row.data() + begin, count));
    cpu::LogSoftmaxRows<T>(logits.const_data_ptr<T>(), rows.target.data() + begin, count, logits.size(1),
                           T(temperature), scratch.logprob.data(), scratch.lse.data(), nullptr);
    std::copy_n(scratch.logprob.begin(), count, result.begin() + begin);
  }
  return result;
}

template <typename T>
at::Tensor BackwardTyped(const Model& model, const at::Tensor& hidden, const HeadRows& rows,
                         double temperature, bool want_entropy, const HeadLoss& loss) {
  at::Tensor dhidden = at::zeros_like(hidden);
  ChunkScratch<T> scratch(kChunkRows);
  std::vector<double> logprob(kChunkRows), entropy(kChunkRows), g(kChunkRows), e(kChunkRows);
  for (int64_t begin = 0; begin < rows.size(); begin += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows.size() - begin);
    const at::Tensor index = IndexTensor(rows.row.data() + begin, count);
    const at::Tensor logits = ChunkLogits(model, hidden, index);
    const int32_t* target = rows.target.data() + begin;
    T* entropies = want_entropy ? scratch.entropy.data() : nullptr;
    cpu::LogSoftmaxRows<T>(logits.const_data_ptr<T>(), target, count, logits.size(1), T(temperature),
                           scratch.logprob.data(), scratch.lse.data(), entropies);
    std::copy_n(scratch.logprob.begin(), count, logprob.begin());
    if (want_entropy) std::copy_n(scratch.entropy.begin(), count, entropy.begin());
    std::fill(g.begin(), g.end(), 0.0);
    std::fill(e.begin(), e.end(), 0.0);
    loss(begin, count, logprob.data(), want_entropy ? entropy.data() : nullptr, g.data(), e.data());
    std::copy_n(g.begin(), count, scratch.g.begin());
    std::copy_n(e.begin(), count, scratch.e.begin());
    cpu::LogSoftmaxRowsBackward<T>(logits.mutable_data_ptr<T>(), target, scratch.lse.data(), scratch.g.data(),
                                   want_entropy ? scratch.e.data() : nullptr, entropies, count,
                                   logits.size(1), T(temperature));
    dhidden.index_copy_(0, index, model.head().BackwardInput(logits));
  }
  return dhidden;
}

template <typename T>
std::vector<double> DivergenceTyped(const Model& model, const at::Tensor& a, const at::Tensor& b,
                                    const std::vector<int64_t>& rows) {
  std::vector<double> result(rows.size());
  std::vector<T> kl(kChunkRows);
  const int64_t total = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < total; begin += kChunkRows) {
    const int64_t count = std::min(kChunkRows, total - begin);
    const at::Tensor index = IndexTensor(rows.data() + begin, count);
    const at::Tensor p = ChunkLogits(model, a, index), q = ChunkLogits(model, b, index);
    cpu::KlRows<T>(p.const_data_ptr<T>(), q.const_data_ptr<T>(), count, p.size(1), kl.data());
    std::copy_n(kl.begin(), count, result.begin() + begin);
  }
  return result;
}

}  // namespace

HeadRows NextTokenRows(const Ragged& batch, const std::function<bool(int64_t)>& keep) {
  HeadRows rows;
  for (int64_t d = 0; d < batch.rows(); ++d) {
    for (int64_t i = batch.offsets[d] + 1; i < batch.offsets[d + 1]; ++i) {
      if (keep && !keep(i)) continue;
      rows.row.push_back(i - 1);
      rows.target.push_back(batch.tokens[i]);
    }
  }
  return rows;
}

std::vector<double> HeadLogprobs(const Model& model, const at::Tensor& hidden, const HeadRows& rows,
                                 double temperature) {
  return hidden.scalar_type() == at::kDouble ? LogprobsTyped<double>(model, hidden, rows, temperature)
                                             : LogprobsTyped<float>(model, hidden, rows, temperature);
}

at::Tensor HeadBackward(const Model& model, const at::Tensor& hidden, const HeadRows& rows,
                        double temperature, bool entropy, const HeadLoss& loss) {
  return hidden.scalar_type() == at::kDouble
             ? BackwardTyped<double>(model, hidden, rows, temperature, entropy, loss)
             : BackwardTyped<float>(model, hidden, rows, temperature, entropy, loss);
}

std::vector<double> HeadDivergence(const Model& model, const at::Tensor& a, const at::Tensor& b,
                                   const std::vector<int64_t>& rows) {
  return a.scalar_type() == at::kDouble ? DivergenceTyped<double>(model, a, b, rows)
                                        : DivergenceTyped<float>(model, a, b, rows);
}

at::Tensor HeadLogits(const Model& model, const at::Tensor& hidden, const std::vector<int64_t>& rows) {
  return ChunkLogits(model, hidden, IndexTensor(rows.data(), static_cast<int64_t>(rows.size())));
}

}  // namespace selfedit
