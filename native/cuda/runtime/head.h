// The vocabulary head on a device, a fixed number of rows at a time: [rows, V] is never there for all rows.
// Logits are float whatever the products' type (bfloat16 logits near 20 would be 0.125 apart).
#pragma once
#include <ATen/ATen.h>

#include "cuda/runtime/pass.h"

namespace selfedit::cuda {

class DeviceHead {
 public:
  // chunk: rows at a time.
  DeviceHead(const DeviceModel& model, int64_t chunk, bool backward);
  static int64_t Bytes(const DeviceModel& model, int64_t chunk);
  static int64_t DefaultChunk(const DeviceModel& model, int64_t rows);

  // Overlays say what the rows see on top of the head, here and below.
  // For rows [0, rows): log-prob of target (device, -1: none) and dhidden = the gradient of -weight log-prob.
  void CrossEntropy(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target,
                    const float* weight, int64_t rows, float* logprob, const at::Tensor& dhidden) const;
  // Log-probs, lse and entropies (those may be null) of target under softmax(logits / temperature).
  void Logprobs(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target, int64_t rows,
                float temperature, float* logprob, float* lse, float* entropy) const;
  // dhidden from g = dLoss/dlogprob and e = dLoss/dentropy (e, entropy may be null), with Logprobs' lse and
  // entropy.
  void LogprobsBackward(const at::Tensor& hidden, const Overlays& overlays, const int32_t* target,
                        const float* lse, const float* g, const float* e, const float* entropy, int64_t rows,
                        float temperature, const at::Tensor& dhidden) const;
  // Of each row: KL(softmax(a's logits) || softmax(b's)).
  void Divergence(const at::Tensor& a, const Overlays& of_a, const at::Tensor& b, const Overlays& of_b,
                  int64_t rows, float* kl) const;
  // Logits [rows, V] float.
  void Logits(const at::Tensor& hidden, const Overlays& overlays, int64_t rows,
              const at::Tensor& logits) const;

 private:
  template <typename F>
  void Chunks(int64_t rows, F&& body) const;
  at::Tensor LogitsOf(const at::Tensor& hidden, const Overlays& overlays, int64_t begin, int64_t count,
                      const at::Tensor& buffer) const;
  void HiddenGradient(const at::Tensor& hidden, const Overlays& overlays, const at::Tensor& dlogits,
                      int64_t begin, int64_t count, const at::Tensor& dhidden) const;

  const DeviceModel& model_;
  int64_t chunk_;
  at::Tensor logits_, rounded_;  // [chunk, V] float, and of the products' type
  mutable at::Tensor other_;
};

}  // namespace selfedit::cuda
