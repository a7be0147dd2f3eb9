#include "core/head.h"

#include "cpu/kernels.h"

namespace selfedit {
namespace {

at::Tensor IndexTensor(const int64_t* rows, int64_t count) {
  at::Tensor index = at::empty({count}, at::kLong);
  std::copy_n(rows, count, index.mutable_data_ptr<int64_t>());
  return index;
}

// Some rows of the batch: what goes into the head, and its logits.
struct Chunk {
  std::vector<int64_t> rows;
  at::Tensor index, hidden, logits;
};

Chunk MakeChunk(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden, const int64_t* rows,
                int64_t count) {
  Chunk chunk;
  chunk.rows.assign(rows, rows + count);
  chunk.index = IndexTensor(rows, count);
  chunk.hidden = at::index_select(hidden, 0, chunk.index);
  chunk.logits = model.head().Forward(chunk.hidden).contiguous();
  plan.ForwardRows(model.ids().head, chunk.rows, chunk.hidden, chunk.logits);
  return chunk;
}

template <typename T>
struct ChunkScratch {
  std::vector<T> logprob, lse, entropy, g, e;
  explicit ChunkScratch(int64_t count) : logprob(count), lse(count), entropy(count), g(count), e(count) {}
};

template <typename T>
std::vector<double> LogprobsTyped(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                                  const HeadRows& rows, double temperature) {
  std::vector<double> result(rows.size());
  ChunkScratch<T> scratch(kHeadRows);
  for (int64_t begin = 0; begin < rows.size(); begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, rows.size() - begin);
    const at::Tensor logits = MakeChunk(model, plan, hidden, rows.row.data() + begin, count).logits;
    cpu::LogSoftmaxRows<T>(logits.const_data_ptr<T>(), rows.target.data() + begin, count, logits.size(1),
                           T(temperature), scratch.logprob.data(), scratch.lse.data(), nullptr);
    std::copy_n(scratch.logprob.begin(), count, result.begin() + begin);
  }
  return result;
}

template <typename T>
at::Tensor BackwardTyped(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                         const HeadRows& rows, double temperature, bool want_entropy, const HeadLoss& loss) {
  at::Tensor dhidden = at::zeros_like(hidden);
  ChunkScratch<T> scratch(kHeadRows);
  std::vector<double> logprob(kHeadRows), entropy(kHeadRows), g(kHeadRows), e(kHeadRows);
  for (int64_t begin = 0; begin < rows.size(); begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, rows.size() - begin);
    const Chunk chunk = MakeChunk(model, plan, hidden, rows.row.data() + begin, count);
    const at::Tensor& logits = chunk.logits;
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
    const at::Tensor dchunk = model.head().BackwardInput(logits);
    plan.BackwardRows(model.ids().head, chunk.rows, chunk.hidden, logits, dchunk);
    dhidden.index_copy_(0, chunk.index, dchunk);
  }
  return dhidden;
}

template <typename T>
std::vector<double> DivergenceTyped(const Model& model, const OverlayPlan& plan_a, const at::Tensor& a,
                                    const OverlayPlan& plan_b, const at::Tensor& b,
                                    const std::vector<int64_t>& rows) {
  std::vector<double> result(rows.size());
  std::vector<T> kl(kHeadRows);
  const int64_t total = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < total; begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, total - begin);
    const at::Tensor p = MakeChunk(model, plan_a, a, rows.data() + begin, count).logits;
    const at::Tensor q = MakeChunk(model, plan_b, b, rows.data() + begin, count).logits;
    cpu::KlRows<T>(p.const_data_ptr<T>(), q.const_data_ptr<T>(), count, p.size(1), kl.data());
    std::copy_n(kl.begin(), count, result.begin() + begin);
  }
  return result;
}

template <typename T>
std::vector<double> DivergenceBackwardTyped(const Model& model, const OverlayPlan& plan_a,
                                            const at::Tensor& a, const OverlayPlan& plan_b,
                                            const at::Tensor& b, const std::vector<int64_t>& rows,
                                            const std::vector<double>& weights, const at::Tensor& da) {
  std::vector<double> result(rows.size());
  std::vector<T> kl(kHeadRows), weight(kHeadRows);
  const int64_t total = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < total; begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, total - begin);
    const Chunk p = MakeChunk(model, plan_a, a, rows.data() + begin, count);
    const at::Tensor q = MakeChunk(model, plan_b, b, rows.data() + begin, count).logits;
    std::copy_n(weights.begin() + begin, count, weight.begin());
    cpu::KlRowsBackward<T>(p.logits.mutable_data_ptr<T>(), q.const_data_ptr<T>(), weight.data(), count,
                           q.size(1), kl.data());
    std::copy_n(kl.begin(), count, result.begin() + begin);
    const at::Tensor dchunk = model.head().BackwardInput(p.logits);
    plan_a.BackwardRows(model.ids().head, p.rows, p.hidden, p.logits, dchunk);
    da.index_add_(0, p.index, dchunk);
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

std::vector<double> HeadLogprobs(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                                 const HeadRows& rows, double temperature) {
  return hidden.scalar_type() == at::kDouble ? LogprobsTyped<double>(model, plan, hidden, rows, temperature)
                                             : LogprobsTyped<float>(model, plan, hidden, rows, temperature);
}

at::Tensor HeadBackward(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                        const HeadRows& rows, double temperature, bool entropy, const HeadLoss& loss) {
  return hidden.scalar_type() == at::kDouble
             ? BackwardTyped<double>(model, plan, hidden, rows, temperature, entropy, loss)
             : BackwardTyped<float>(model, plan, hidden, rows, temperature, entropy, loss);
}

std::vector<double> HeadDivergence(const Model& model, const OverlayPlan& plan_a, const at::Tensor& a,
                                   const OverlayPlan& plan_b, const at::Tensor& b,
                                   const std::vector<int64_t>& rows) {
  return a.scalar_type() == at::kDouble ? DivergenceTyped<double>(model, plan_a, a, plan_b, b, rows)
                                        : DivergenceTyped<float>(model, plan_a, a, plan_b, b, rows);
}

std::vector<double> HeadDivergenceBackward(const Model& model, const OverlayPlan& plan_a, const at::Tensor& a,
                                           const OverlayPlan& plan_b, const at::Tensor& b,
                                           const std::vector<int64_t>& rows,
                                           const std::vector<double>& weights, const at::Tensor& da) {
  return a.scalar_type() == at::kDouble
             ? DivergenceBackwardTyped<double>(model, plan_a, a, plan_b, b, rows, weights, da)
             : DivergenceBackwardTyped<float>(model, plan_a, a, plan_b, b, rows, weights, da);
}

at::Tensor HeadLogits(const Model& model, const OverlayPlan& plan, const at::Tensor& hidden,
                      const std::vector<int64_t>& rows) {
  return MakeChunk(model, plan, hidden, rows.data(), static_cast<int64_t>(rows.size())).logits;
}

}  // namespace selfedit
