// CUDA kernels: pointers, sizes and a stream, no torch header. Names mirror cpu/kernels.h where both exist.
//
// Every pointer is device memory unless it says "host"; buffers are row-major and contiguous unless a stride
// (in elements) is named, and of the run-time `type`; masters, gradients of values, losses and statistics are
// float. Products and sums are float (statistics of rows over V: double) and are rounded to `type` only when
// a named buffer is written.
//
// Made for one CUDA graph a training step and one a decode step: the shape of every launch depends on the
// capacities alone (T tokens, D documents, S slots, R rank, rows), what is really there is read from device
// memory; nothing allocates, nothing waits for the host. No float atomics: every output element is summed by
// one block in an order that depends only on its own row, document or segment.
//
// twins/ implements the same functions serially over host pointers (the stream is not read).
//
// Axes (docs/notation.md): n tokens, H query heads, G key-value heads, d head size, c hidden size,
// f intermediate size, V vocabulary, r rank.
#pragma once
#include <cstdint>

namespace selfedit::cuda {

enum class Type : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
constexpr int64_t TypeSize(Type type) { return type == Type::kFloat32 ? 4 : 2; }

using Stream = void*;  // cudaStream_t

// Largest sizes; the caller checks them.
constexpr int64_t kMostRank = 128;      // of a low-rank segment and of R; R must be a multiple of 8
constexpr int64_t kMostHeadSize = 256;  // multiple of 8, at least 16
constexpr int64_t kMostVocabulary = int64_t{1} << 18;  // of SampleRows with top-p or top-k

// Null, or what went wrong with a launch since the last call (static text). Twins: always null.
const char* TakeError();

// Rows of a batch by slot: slot s owns rows [offsets[s], offsets[s + 1]); ascending, empty slots allowed.
// Rows at or beyond offsets[slots] (leftovers of the capacity) belong to no slot: segmented kernels leave
// their outputs alone, except where it is said that they write zeros.
struct Segments {
  const int32_t* offsets = nullptr;  // [slots + 1]
  int64_t slots = 0;                 // S
  int64_t tokens = 0;                // T, capacity of rows: offsets[slots] <= tokens
};

// ---- 1. training step: from the uploaded schedule to a batch
// ------------------------------------------------

// offsets[s] = what of segments.offsets[s] lies before rows [begin, begin + count): the segments of a piece
// of the batch, whose first row is row 0 (offsets [slots + 1]).
void ClipSegments(const Segments& segments, int64_t begin, int64_t count, int32_t* offsets, Stream stream);

// Uploaded once a run; read-only. Entries of one step are sorted by slot.
struct Schedule {
  const int32_t* tokens = nullptr;            // all documents end to end
  const uint8_t* loss_mask = nullptr;         // same length, 0: no loss on this token; null: loss everywhere
  const int32_t* document_offsets = nullptr;  // [documents + 1] into tokens
  const int32_t* step_entries = nullptr;      // [steps + 1] into the two lists below
  const int32_t* entry_document = nullptr;
  const int32_t* entry_slot = nullptr;
  const double* learning_rate = nullptr;  // [steps, S]
  const int32_t* adam_step = nullptr;     // [steps, S]; 1 for a slot's first step, 0: sits this step out
  const float* loss_scale = nullptr;      // [steps, S] 1 / number of the slot's loss tokens in this step
  int64_t steps = 0;
};

// Written by GatherStep, all of it, every step.
struct StepBatch {
  int64_t tokens_capacity = 0, documents_capacity = 0, slots = 0;  // T, D, S
  int32_t* tokens = nullptr;                                       // [T]
  int32_t* positions = nullptr;                                    // [T] place in its document
  int32_t* document_offsets = nullptr;  // [D + 1]; documents not there are empty: [D] is the number of tokens
  int32_t* segment_offsets = nullptr;   // [S + 1]; [S] is the number of tokens
  int32_t* target = nullptr;            // [T] next token of the document where that one carries loss, else -1
  float* weight = nullptr;              // [T] loss_scale of the row's slot where target >= 0, else 0
  double* learning_rate = nullptr;      // [S] of this step
  int32_t* adam_step = nullptr;         // [S] of this step, 0: inactive
};

// Batch of step step[0]. Leftover rows become token 0, position 0, target -1, weight 0, in no document and no
// slot (attention writes zeros there, so nothing downstream is uninitialised). A step at or beyond
// schedule.steps gives an empty batch with every slot inactive. Documents and tokens beyond the capacities
// are not checked: the schedule's maker keeps each step within T and D.
void GatherStep(const Schedule& schedule, const int32_t* step, const StepBatch& batch, Stream stream);
// step[0] += 1. Last node of the step's graph.
void AdvanceStep(int32_t* step, Stream stream);

// ---- 2. segmented low-rank
// ----------------------------------------------------------------------------------

// One matrix's delta of every slot. Either stacked (a and b, zero-padded to rank R: A of slot s at
// a + s a_stride, [R, in]; B at b + s b_stride, [out, R]), or separately allocated (a_pointers, b_pointers
// and ranks: A of segment s [ranks[s], in], B [out, ranks[s]]; a null pointer: no delta on this segment).
struct LowRank {
  const void* a = nullptr;
  const void* b = nullptr;
  int64_t a_stride = 0, b_stride = 0;       // elements between slots; 16-byte multiples for full speed
  const void* const* a_pointers = nullptr;  // [S]; not null chooses the second form
  const void* const* b_pointers = nullptr;  // [S]
  const int32_t* ranks = nullptr;           // [S]; second form only
  const float* scale = nullptr;             // [S]; null: 1
  // Diagonal between the factors (spectral deltas), null: none. Gain of slot s at gain + s gain_stride, or,
  // when gain_pointers is set, at gain_pointers[s] (null: ones). Float whatever the type.
  const float* gain = nullptr;
  int64_t gain_stride = 0;
  const float* const* gain_pointers = nullptr;
  int64_t rank = 0;  // R, width of u and v: multiple of 8, at most kMostRank
  int64_t in = 0, out = 0;
};

// u[t, :] = A_s x[t]                            x [T, in], u [T, R]; columns from ranks[s] on become 0.
void LowRankShrink(Type type, const Segments& segments, const LowRank& delta, const void* x, void* u,
                   Stream stream);
// y[t, :] += scale_s B_s (gain_s * u[t])        y [T, out] of y_type (type, or float: logits); gain * u is
// rounded to type when there is a gain.
void LowRankExpand(Type type, Type y_type, const Segments& segments, const LowRank& delta, const void* u,
                   void* y, Stream stream);
// v[t, :] = scale_s B_s^T dy[t]                 dy [T, out], v [T, R] (before the gain).
void LowRankShrinkBackward(Type type, const Segments& segments, const LowRank& delta, const void* dy, void* v,
                           Stream stream);
// dx[t, :] += A_s^T (gain_s * v[t])             dx [T, in].
void LowRankExpandBackward(Type type, const Segments& segments, const LowRank& delta, const void* v, void* dx,
                           Stream stream);
// da_s = sum_t (gain_s * v[t]) x[t]^T           [R, in], float, at da + s da_stride
// db_s = scale_s sum_t dy[t] (gain_s * u[t])^T  [out, R], float, at db + s db_stride
// dgain_s = sum_t v[t] * u[t]                   [R], float, at dgain + s dgain_stride; null: not wanted
// accumulate: +=, else = (empty slots become 0). Of da, db and dgain those are made that are not null; of
// rank R each (of the second form, gradients of values behind ranks[s] are 0). Tokens of a slot are added in
// order.
struct LowRankGradient {
  float* da = nullptr;
  float* db = nullptr;
  float* dgain = nullptr;
  int64_t da_stride = 0, db_stride = 0, dgain_stride = 0;
  bool accumulate = false;
};
void LowRankBackwardValues(Type type, const Segments& segments, const LowRank& delta, const void* x,
                           const void* dy, const void* u, const void* v, const LowRankGradient& gradient,
                           Stream stream);

// ---- 3. segmented sparse
// ------------------------------------------------------------------------------------

// A sparse change of one [out, in] matrix per segment, CSR; arrays of pointers [S], each null for a segment
// without one. The transposed index lists the same entries by column: entry e of column j, e in
// [column_offsets[j], column_offsets[j + 1]), lies in row rows[e] and has values[order[e]].
struct Sparse {
  const int32_t* const* row_offsets = nullptr;     // [S] -> [out + 1]
  const int32_t* const* columns = nullptr;         // [S] -> [entries]
  const void* const* values = nullptr;             // [S] -> [entries], of type
  const int32_t* const* column_offsets = nullptr;  // [S] -> [in + 1]; backward of the input only
  const int32_t* const* rows = nullptr;            // [S] -> [entries]
  const int32_t* const* order = nullptr;           // [S] -> [entries]
  const float* scale = nullptr;                    // [S]; null: 1
  int64_t in = 0, out = 0;
};
// y[t] += scale_s S_s x[t], y of y_type (type, or float); entries of a row in their order.
void SparseForward(Type type, Type y_type, const Segments& segments, const Sparse& delta, const void* x,
                   void* y, Stream stream);
// dx[t] += scale_s S_s^T dy[t]
void SparseBackwardInput(Type type, const Segments& segments, const Sparse& delta, const void* dy, void* dx,
                         Stream stream);
// dvalues_s[e] = scale_s sum_t dy[t, row(e)] x[t, columns[e]] (+= when accumulate); float, dvalues [S] device
// pointers, null: not wanted.
void SparseBackwardValues(Type type, const Segments& segments, const Sparse& delta, const void* x,
                          const void* dy, float* const* dvalues, bool accumulate, Stream stream);

// A dense change D_s of one [out, in] matrix per segment; a null pointer: none.
struct Dense {
  const void* const* values = nullptr;  // [S] -> [out, in], of type
  const float* scale = nullptr;         // [S]; null: 1
  int64_t in = 0, out = 0;
};
// y[t] += scale_s D_s x[t], y of y_type (type, or float)
void DenseForward(Type type, Type y_type, const Segments& segments, const Dense& delta, const void* x,
                  void* y, Stream stream);
// dx[t] += scale_s D_s^T dy[t]
void DenseBackwardInput(Type type, const Segments& segments, const Dense& delta, const void* dy, void* dx,
                        Stream stream);
// dvalues_s = scale_s sum_t dy[t] x[t]^T (+= when accumulate); float [out, in], dvalues [S] device pointers,
// null: not wanted. Reads no values: a change that is nothing yet has a gradient.
void DenseBackwardValues(Type type, const Segments& segments, const Dense& delta, const void* x,
                         const void* dy, float* const* dvalues, bool accumulate, Stream stream);

// Rows of one [out, in] matrix that segments have changed copies of: weights_s [count_s, in] of type take the
// place of rows [first_s, first_s + count_s).
struct CopiedRows {
  const void* const* weights = nullptr;  // [S], null: none
  const int32_t* first = nullptr;        // [S]
  const int32_t* count = nullptr;        // [S]
  const void* bias = nullptr;            // [out] of type, or null
  int64_t most = 0;                      // largest count
  int64_t in = 0, out = 0;
};
// y[t, first_s + o] = weights_s[o] x[t] + bias[first_s + o], over what was there
void CopiedRowsForward(Type type, const Segments& segments, const CopiedRows& rows, const void* x, void* y,
                       Stream stream);

// ---- 3b. rows of a change: embeddings, and vectors (matrices of one row: one row of the batch a segment,
// token 0). Tokens outside [0, out) have no row: nothing is added.

// v[t, :] = scale_s B_s[token[t], :]            v [T, R]; columns from ranks[s] on become 0. The row of the
// change is what LowRankExpandBackward makes of it: y[t] += A_s^T (gain_s * v[t]).
void LowRankLookup(Type type, const Segments& segments, const LowRank& delta, const int32_t* token, void* v,
                   Stream stream);
// y[t] += scale_s S_s[token[t]]                 y [T, in]
void SparseLookup(Type type, const Segments& segments, const Sparse& delta, const int32_t* token, void* y,
                  Stream stream);
void DenseLookup(Type type, const Segments& segments, const Dense& delta, const int32_t* token, void* y,
                 Stream stream);
// dvalues_s[e] += scale_s sum of dy[t, columns[e]] over the tokens t that are e's row, in their order; other
// entries are left alone. dvalues as in SparseBackwardValues.
void SparseLookupBackward(Type type, const Segments& segments, const Sparse& delta, const int32_t* token,
                          const void* dy, float* const* dvalues, Stream stream);
// dvalues_s[token[t], :] += scale_s dy[t]       [out, in], tokens in order. dB of a low-rank change is this
// over u = A_s dy [T, R] (LowRankShrink), with in = R.
void DenseLookupBackward(Type type, const Segments& segments, const Dense& delta, const int32_t* token,
                         const void* dy, float* const* dvalues, Stream stream);

// Vectors [c] of segments, float whatever the type, device pointers [S], null: none.
// y[t] += vector_s                              y [T, c]
void VectorAdd(Type type, const Segments& segments, const float* const* vector, int64_t c, void* y,
               Stream stream);
// dvector_s = sum_t dy[t] (+= when accumulate), tokens in order
void VectorBackward(Type type, const Segments& segments, const void* dy, int64_t c, float* const* dvector,
                    bool accumulate, Stream stream);
// y[s] = vector_s, or zeros                     y [S, c] float
void VectorStack(const float* const* vector, int64_t slots, int64_t c, float* y, Stream stream);

// ---- 4. AdamW over stacked slots
// ----------------------------------------------------------------------------

struct SlotOptimizer {  // one a slot, device memory, constant over a run
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double clip = 0;  // largest gradient norm, 0: off; factor min(1, clip / (norm + 1e-6)) as in torch
};
struct AdamWSlots {
  int64_t slots = 0, count = 0;  // S, values a slot; all value buffers [S, count]
  float* value = nullptr;        // masters
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  const float* gradient = nullptr;
  void* shadow = nullptr;  // value rounded to shadow_type, [S, count]; null: none
  Type shadow_type = Type::kBFloat16;
  const SlotOptimizer* optimizer = nullptr;  // [S]
  const double* learning_rate = nullptr;     // [S] of this step (StepBatch)
  const int32_t* adam_step = nullptr;        // [S] of this step, 0: the slot is left as it is
  double* partial = nullptr;                 // [S, kNormParts] scratch
  double* norm = nullptr;                    // [S] out: gradient norm before clipping (inactive: unchanged)
  int32_t* failed_step = nullptr;  // [S] in, out: first adam_step whose norm was not finite, 0: none; may be
                                   // null. A step whose norm is not finite leaves its slot as it was.
};
constexpr int64_t kNormParts = 64;  // blocks that share a slot's norm
// Decoupled AdamW exactly as torch.optim.AdamW; norm^2 is summed in double in fixed order.
void AdamW(const AdamWSlots& slots, Stream stream);

// ---- 5. head rows
// -------------------------------------------------------------------------------------------

// With z = logits / temperature, logits [rows, V]: logprob[r] = z[target[r]] - lse[r]; lse[r]; entropy[r] in
// nats. lse and entropy may be null. A row with target -1 is skipped: logprob, lse and entropy 0.
void LogSoftmaxRows(Type type, const void* logits, const int32_t* target, int64_t rows, int64_t V,
                    float temperature, float* logprob, float* lse, float* entropy, Stream stream);
// In place: logits[r] becomes dLoss/dlogits[r] from g[r] = dLoss/dlogprob[r] and (when not null) e[r] =
// dLoss/dentropy[r] with entropy[r]: with p = softmax(z),
// dlogit_j = (g (1[j == target] - p_j) - e p_j (log p_j + entropy)) / temperature. Target -1: zeros.
void LogSoftmaxRowsBackward(Type type, void* logits, const int32_t* target, const float* lse, const float* g,
                            const float* e, const float* entropy, int64_t rows, int64_t V, float temperature,
                            Stream stream);
// Both at once for training: logprob[r], and logits[r] becomes the gradient of -weight[r] logprob[r] (target
// -1: logprob 0, zeros). One read and one write of the logits.
void CrossEntropy(Type type, void* logits, const int32_t* target, const float* weight, int64_t rows,
                  int64_t V, float* logprob, Stream stream);
// loss[s] = -sum of weight[t] logprob[t] over the slot's rows, in double, rounded to float; row of step
// step[0] of loss [steps, S] (step null: row 0; a step beyond `steps` writes nothing).
void SlotLoss(const Segments& segments, const float* weight, const float* logprob, const int32_t* step,
              int64_t steps, float* loss, Stream stream);
// kl[r] = sum_j p_j (log p_j - log q_j), p = softmax(a[r]), q = softmax(b[r]).
void KlRows(Type type, const void* a, const void* b, int64_t rows, int64_t V, float* kl, Stream stream);

// ---- 6. rows of the transformer
// -----------------------------------------------------------------------------

// y = x rstd (w + gain_s), rstd[i] = 1 / sqrt(mean(x[i]^2) + eps), x, y [n, c], w [c]. When residual is not
// null: x[i] += residual[i] first (rounded and written back). rstd [n] float may be null. gain (may be null):
// device pointers [S] to float [c] (null: none) for the rows of segments, each of which is `heads` of the
// n (norms of the heads of q and k).
struct NormGain {
  const float* const* gain = nullptr;
  Segments segments;
  int64_t heads = 1;
};
void RmsNormForward(Type type, void* x, const void* residual, const void* w, const NormGain& gain, int64_t n,
                    int64_t c, float eps, void* y, float* rstd, Stream stream);
// dx (+= when accumulate, else = and may be dy itself) given dy and rstd; x is the sum that was normed.
void RmsNormBackward(Type type, const void* x, const void* w, const NormGain& gain, const float* rstd,
                     const void* dy, int64_t n, int64_t c, bool accumulate, void* dx, Stream stream);
// dgain_s = sum_t dy[t] x[t] rstd[t] (+= when accumulate) over the heads of all rows, x and dy [T, heads, c],
// rstd [T, heads]; dgain [S] device pointers to float [c], null: no.
void RmsNormBackwardGain(Type type, const Segments& segments, int64_t heads, const void* x, const float* rstd,
                         const void* dy, int64_t c, float* const* dgain, bool accumulate, Stream stream);
// In place on heads of x (row i at x + i stride); pairs (j, j + d/2). cos, sin float [positions, d/2].
// sign +1 rotates forward, -1 is the inverse, which is also the gradient.
void Rope(Type type, void* x, int64_t stride, const int32_t* position, const float* cos, const float* sin,
          int64_t n, int64_t heads, int64_t d, int sign, Stream stream);
// y = silu(gate) up; gate and up [n, f] with rows `stride` apart (f when apart, 2 f when one merged buffer),
// y [n, f].
void SwiGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                   Stream stream);
// dgate and dup (rows `stride` apart; may alias gate and up) from dy [n, f].
void SwiGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                    int64_t f, void* dgate, void* dup, Stream stream);
// The same of y = gelu(gate) up with the tanh approximation of GELU (arXiv 1606.08415).
void GeGluForward(Type type, const void* gate, const void* up, int64_t stride, int64_t n, int64_t f, void* y,
                  Stream stream);
void GeGluBackward(Type type, const void* gate, const void* up, int64_t stride, const void* dy, int64_t n,
                   int64_t f, void* dgate, void* dup, Stream stream);
// x *= factor, count values.
void Scale(Type type, void* x, float factor, int64_t count, Stream stream);
// x[i] += bias, x [n, c], bias [c].
void BiasAdd(Type type, void* x, const void* bias, int64_t n, int64_t c, Stream stream);
// x += y, count values.
void ResidualAdd(Type type, void* x, const void* y, int64_t count, Stream stream);
// x[i] = table[token[i]], table [V, c]; tokens outside [0, V) give zeros.
void Embed(Type type, const void* table, const int32_t* token, int64_t n, int64_t c, int64_t V, void* x,
           Stream stream);

// ---- 7. attention over documents, causal, block-diagonal
// ----------------------------------------------------

struct AttentionShape {
  const int32_t* document_offsets = nullptr;  // [D + 1], ascending, empty documents allowed
  int64_t documents = 0, tokens = 0;          // D, T
  int64_t H = 0, G = 0, d = 0;                // H % G == 0, head h reads h / (H / G)
  int64_t q_stride = 0, kv_stride = 0;        // between tokens: H d and G d, or the width of a merged buffer
  float scale = 1;
  int64_t window = 0;  // keys that a query sees at most, its own included; 0: all
};
// out[i,h] = sum_j softmax_j(scale q[i,h] . k[j,g]) v[j,g], i - window < j <= i in i's document. out [T, H,
// d] contiguous; lse [T, H] float, natural log of the denominator with the maximum added back; may be null.
// Rows at or beyond document_offsets[D] become 0 (lse 0). Probabilities are rounded to type before the
// product with v.
void AttentionForward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                      void* out, float* lse, Stream stream);
// Overwrites dq (q_stride), dk and dv (kv_stride); leftover rows become 0. delta: scratch [T, H] float.
// Probabilities and their gradients are rounded to type before products.
void AttentionBackward(Type type, const AttentionShape& shape, const void* q, const void* k, const void* v,
                       const void* out, const float* lse, const void* dout, float* delta, void* dq, void* dk,
                       void* dv, Stream stream);

// ---- 8. decoding
// --------------------------------------------------------------------------------------------

// Rows of a decode batch; rows of q, keys and values start at multiples of 16 bytes. Idle rows have own_k[b]
// null: nothing is read or written for them, outputs become 0.
struct DecodeShape {
  int64_t rows = 0;  // capacity
  int64_t H = 0, G = 0, d = 0;
  int64_t q_stride = 0, kv_stride = 0;  // between rows of q, and of the new k and v
  float scale = 1;
  // [rows] device arrays, of one layer: prefix_k[b] -> [prefix_length[b], G, d], own_k[b] -> [capacity, G,
  // d].
  const void* const* prefix_k = nullptr;
  const void* const* prefix_v = nullptr;
  const int32_t* prefix_length = nullptr;
  void* const* own_k = nullptr;
  void* const* own_v = nullptr;
  const int32_t* own_length = nullptr;  // before this step's token
  int64_t window = 0;                   // last keys that a row sees, of the prefix's and its own; 0: all
};
// own_k[b][own_length[b]] = k[b], own_v alike; k, v rows kv_stride apart, [G, d] each.
void AppendKeyValue(Type type, const DecodeShape& shape, const void* k, const void* v, Stream stream);
// out [rows, H, d] from the keys of the prefix, then the row's own_length[b] + appended own ones (appended: 1
// after AppendKeyValue). Long sequences are split `splits` ways (1 to kMostSplits, 64 keys each at least) and
// merged in order; scratch [rows, H, splits, d + 2] float, may be null when splits is 1.
constexpr int64_t kMostSplits = 32;
void AttentionDecode(Type type, const DecodeShape& shape, const void* q, int32_t appended, int64_t splits,
                     float* scratch, void* out, Stream stream);

// State of the rows of a decode batch, device arrays [rows]. finish: 0 runs; 1 stop token, 2 length (count
// reached max_tokens), 3 context full, 4 logits not finite; -1 idle.
struct DecodeState {
  int64_t rows = 0;
  int32_t* last = nullptr;  // last token, the next step's input
  int32_t* own_length = nullptr;
  int64_t* count = nullptr;  // tokens generated; also the position of the next draw
  int32_t* finish = nullptr;
  const int32_t* prefix_length = nullptr;
  const int32_t* max_tokens = nullptr;
  int64_t max_positions = 0;
  const int32_t* stop_tokens = nullptr;  // [stops]
  int64_t stops = 0;
  int32_t* out_tokens = nullptr;  // [rows, out_capacity]
  float* out_logprobs = nullptr;  // [rows, out_capacity]
  int64_t out_capacity = 0;       // >= max_tokens
  int32_t* running = nullptr;     // [1] out: rows that still run; may be null
};
// tokens[b] = last[b], positions[b] = prefix_length[b] + own_length[b]; rows that do not run: 0 and 0.
void DecodeInput(const DecodeState& state, int32_t* tokens, int32_t* positions, Stream stream);
// For rows that run: writes token and logprob at out[b, count[b]], last = token, count += 1, own_length +=
// appended (0 after the prefill, 1 after a decode step), and finish in the order 4, 1, 2, 3: token < 0 ends
// as 4 and writes nothing else; context: prefix_length + own_length (the new one) + 1 >= max_positions.
// Recounts running.
void DecodeUpdate(const DecodeState& state, const int32_t* token, const float* logprob, int32_t appended,
                  Stream stream);

// ---- 9. sampling
// --------------------------------------------------------------------------------------------

// As cpu::SampleRows, same noise from the same keys; per-row parameters [rows] on the device. position may be
// DecodeState::count. Masses of top-p are summed as integers of 2^-44, so the cut is exact and ordered.
void SampleRows(Type type, const void* logits, int64_t rows, int64_t V, const float* temperature,
                const float* top_p, const int32_t* top_k, const uint64_t* key, const int64_t* position,
                int32_t* token, float* logprob, Stream stream);

}  // namespace selfedit::cuda
