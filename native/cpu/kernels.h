// CPU kernels of the transformer: pointers, sizes and nothing else (no torch header). The CUDA kernels mirror
// these names. T is float or double. All buffers are row-major and contiguous unless a stride is named. Work
// is split over documents, heads or rows with OpenMP; every output element is summed in one fixed order that
// depends only on its own row or document, so results never depend on what else is in the batch or on the
// number of threads. Axes: n tokens, D documents, H query heads, G key-value heads (H % G == 0, head h reads
// h / (H / G)), d head size, c hidden size, f intermediate size, V vocabulary.
#pragma once
#include <cstdint>

namespace selfedit::cpu {

// Name of the instruction set in use: "avx512", "avx2" or "portable".
const char* SimdName();

// ---- attention over documents, causal, block-diagonal
// ------------------------------------------------------------- out[i,h] = sum_j softmax_j(scale * q[i,h] .
// k[j,g]) v[j,g], j <= i in i's document. q, out [n, H, d]; k, v [n, G, d]; offsets [D + 1] (token index of
// each document's first token, offsets[D] == n). lse [n, H]: natural log of the softmax denominator (with the
// maximum added back), kept for the backward pass; may be null. attended [D], null: all; of document t only
// the first attended[t] (at least 1) tokens are keys: the ones behind them, padding, attend to these and to
// nothing else, themselves included. window, 0: all; of those keys only the last `window` up to the query's
// own position are seen (Mistral, arXiv 2310.06825); not together with attended.
template <typename T>
void AttentionForward(const T* q, const T* k, const T* v, const int32_t* offsets, const int32_t* attended,
                      int64_t documents, int64_t H, int64_t G, int64_t d, T scale, int64_t window, T* out,
                      T* lse);
// Gradients dq, dk, dv from dout; recomputes the probabilities from lse. dq, dk, dv are overwritten.
template <typename T>
void AttentionBackward(const T* q, const T* k, const T* v, const T* out, const T* lse, const T* dout,
                       const int32_t* offsets, const int32_t* attended, int64_t documents, int64_t H,
                       int64_t G, int64_t d, T scale, int64_t window, T* dq, T* dk, T* dv);

// ---- attention with cached keys and values (decoding, and prefill behind a shared prefix)
// -------------------------- One query token a row. Keys of row b are those of its shared prefix, then its
// own: prefix_k[b] points at [prefix_length[b], G, d] (null when the length is 0), own_k[b] at
// [own_length[b], G, d]; values alike. q, out [rows, H, d].
template <typename T>
void AttentionDecode(const T* q, const T* const* prefix_k, const T* const* prefix_v,
                     const int32_t* prefix_length, const T* const* own_k, const T* const* own_v,
                     const int32_t* own_length, int64_t rows, int64_t H, int64_t G, int64_t d, T scale,
                     T* out);

// ---- normalisation, rotation, gating
// -------------------------------------------------------------------------------- y = x * rstd * w, rstd[i]
// = 1 / sqrt(mean(x[i]^2) + eps). rstd [n] may be null.
template <typename T>
void RmsNormForward(const T* x, const T* w, int64_t n, int64_t c, T eps, T* y, T* rstd);
// dx (+= when accumulate, else =) of y = RmsNorm(x) given dy and rstd.
template <typename T>
void RmsNormBackward(const T* x, const T* w, const T* rstd, const T* dy, int64_t n, int64_t c,
                     bool accumulate, T* dx);
// In place on x [n, heads, d]; pairs (j, j + d/2) as in Hugging Face. cos, sin [positions, d/2]; position
// [n]. sign +1 rotates forward, -1 is the inverse (which is also the gradient).
template <typename T>
void Rope(T* x, const int32_t* position, const T* cos, const T* sin, int64_t n, int64_t heads, int64_t d,
          int sign);
// y = silu(gate) * up, all [n, f].
template <typename T>
void SwiGluForward(const T* gate, const T* up, int64_t count, T* y);
// dgate and dup from dy; outputs may alias gate and up.
template <typename T>
void SwiGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup);
// y = gelu(gate) * up with the tanh approximation of GELU (arXiv 1606.08415); the backward as above.
template <typename T>
void GeGluForward(const T* gate, const T* up, int64_t count, T* y);
template <typename T>
void GeGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup);

// ---- bfloat16
// ---------------------------------------------------------------------------------------------------------
// Rows of x (stride ldx) taken apart into bfloat16 terms, nearest even: terms[0] = round(x), terms[1] =
// round(x - terms[0]), …. to [terms, padded, c]; rows from `rows` to `padded` become 0. Serial: callers split
// the rows.
void SplitBf16(const float* x, int64_t ldx, int64_t rows, int64_t padded, int64_t c, int terms, uint16_t* to);

// ---- head rows
// ------------------------------------------------------------------------------------------------------ For
// each row of logits [rows, V] divided by temperature: logprob[r] = logit[target[r]] - lse; lse[r]; and, when
// entropy is not null, entropy[r] of the row's distribution in nats. Sums in double.
template <typename T>
void LogSoftmaxRows(const T* logits, const int32_t* target, int64_t rows, int64_t V, T temperature,
                    T* logprob, T* lse, T* entropy);
// In place: logits[r] becomes dLoss/dlogits[r] given g[r] = dLoss/dlogprob[r] and (when not null) e[r] =
// dLoss/dentropy[r] with entropy[r]: with p = softmax(logits / temperature),
// dlogit_j = (g (1[j == target] - p_j) - e p_j (log p_j + entropy)) / temperature.
template <typename T>
void LogSoftmaxRowsBackward(T* logits, const int32_t* target, const T* lse, const T* g, const T* e,
                            const T* entropy, int64_t rows, int64_t V, T temperature);
// kl[r] = sum_j p_j (log p_j - log q_j), p = softmax(a[r]), q = softmax(b[r]); sums in double.
template <typename T>
void KlRows(const T* a, const T* b, int64_t rows, int64_t V, T* kl);
// The same, and in place: a[r] becomes weight[r] dkl[r]/da[r] = weight[r] p_j (log p_j - log q_j - kl[r]).
template <typename T>
void KlRowsBackward(T* a, const T* b, const T* weight, int64_t rows, int64_t V, T* kl);

// ---- sampling
// ------------------------------------------------------------------------------------------------------- One
// token a row from logits [rows, V], z = logits / temperature. temperature 0: argmax (lowest id wins ties),
// log-prob at temperature 1. Otherwise Gumbel-max: the token of the largest z_j + g_j (ties towards the lower
// id) among the top_k largest z (0 or less: off), and of those among the smallest set of largest ones that
// holds at least the part top_p of their probability (>= 1: off; at least one token is kept); ties at both
// borders keep the lower id. Noise of token j, in float whatever T is, a function of (key[r], position[r], j)
// alone:
//   bits = Philox(key, position, j / 4).v[j % 4]
//   v = min(float(bits) * 2^-32 + 2^-33, 1 - 2^-24)       float(bits) rounds to nearest; 0 < v < 1,
//   fine-grained at 0 g = -log(-log(1 - v))                                   largest 22.87: rare tokens keep
//   their share
// logprob[r] is of the full temperature-scaled distribution. A row with NaN or +inf among its logits, or with
// nothing but -inf, has token -1 and log-prob NaN.
template <typename T>
void SampleRows(const T* logits, int64_t rows, int64_t V, const float* temperature, const float* top_p,
                const int32_t* top_k, const uint64_t* key, const int64_t* position, int32_t* token,
                float* logprob);

// ---- optimizer
// ------------------------------------------------------------------------------------------------------
struct AdamWStep {
  int64_t count;         // values of this slot
  double learning_rate;  // of this step
  double beta1, beta2, epsilon, weight_decay;
  double clip;   // largest gradient norm, 0: off; factor min(1, clip / (norm + 1e-6)) as in torch
  int64_t step;  // 1 for the first
};
// Decoupled AdamW exactly as torch.optim.AdamW (bias correction; weight decay before the step). grad is not
// changed. Returns the gradient norm before clipping (summed in double, fixed order).
template <typename T>
double AdamW(T* value, T* first_moment, T* second_moment, const T* grad, const AdamWStep& step);

}  // namespace selfedit::cpu
