#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace selfedit::cpu {
namespace {

bool Supported(const KernelSet* set) {
#if defined(__x86_64__)
  // What -march=x86-64-v3 and -v4 let the compiler use, as far as it appears in these files.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (set == &avx2::kKernels) return v3;
  if (set == &avx512::kKernels) {
    return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
#endif
  return set == &portable::kKernels;
}

constexpr const KernelSet* kSets[] = {
#if defined(__x86_64__)
    &avx512::kKernels, &avx2::kKernels,
#endif
    &portable::kKernels};

std::atomic<const KernelSet*> selected{nullptr};

const KernelSet& Selected() {
  const KernelSet* set = selected.load(std::memory_order_acquire);
  if (set) return *set;
  for (const KernelSet* best : kSets) {
    if (!Supported(best)) continue;
    selected.store(best, std::memory_order_release);
    return *best;
  }
  return portable::kKernels;
}

template <typename T>
const KernelTable<T>& Table();
template <>
const KernelTable<float>& Table<float>() {
  return Selected().f32;
}
template <>
const KernelTable<double>& Table<double>() {
  return Selected().f64;
}

}  // namespace

const char* SimdName() { return Selected().name; }

bool SelectSimd(const char* name) {
  for (const KernelSet* set : kSets) {
    if (std::strcmp(set->name, name) != 0 || !Supported(set)) continue;
    selected.store(set, std::memory_order_release);
    return true;
  }
  return false;
}

bool SimdSupported(const char* name) {
  for (const KernelSet* set : kSets) {
    if (std::strcmp(set->name, name) == 0) return Supported(set);
  }
  return false;
}

template <typename T>
void AttentionForward(const T* q, const T* k, const T* v, const int32_t* offsets, const int32_t* attended,
                      int64_t documents, int64_t H, int64_t G, int64_t d, T scale, int64_t window, T* out,
                      T* lse) {
  Table<T>().attention_forward(q, k, v, offsets, attended, documents, H, G, d, scale, window, out, lse);
}

template <typename T>
void AttentionBackward(const T* q, const T* k, const T* v, const T* out, const T* lse, const T* dout,
                       const int32_t* offsets, const int32_t* attended, int64_t documents, int64_t H,
                       int64_t G, int64_t d, T scale, int64_t window, T* dq, T* dk, T* dv) {
  Table<T>().attention_backward(q, k, v, out, lse, dout, offsets, attended, documents, H, G, d, scale, window,
                                dq, dk, dv);
}

template <typename T>
void AttentionDecode(const T* q, const T* const* prefix_k, const T* const* prefix_v,
                     const int32_t* prefix_length, const T* const* own_k, const T* const* own_v,
                     const int32_t* own_length, int64_t rows, int64_t H, int64_t G, int64_t d, T scale,
                     T* out) {
  Table<T>().attention_decode(q, prefix_k, prefix_v, prefix_length, own_k, own_v, own_length, rows, H, G, d,
                              scale, out);
}

template <typename T>
void RmsNormForward(const T* x, const T* w, int64_t n, int64_t c, T eps, T* y, T* rstd) {
  Table<T>().rms_norm_forward(x, w, n, c, eps, y, rstd);
}

template <typename T>
void RmsNormBackward(const T* x, const T* w, const T* rstd, const T* dy, int64_t n, int64_t c,
                     bool accumulate, T* dx) {
  Table<T>().rms_norm_backward(x, w, rstd, dy, n, c, accumulate, dx);
}

template <typename T>
void Rope(T* x, const int32_t* position, const T* cos, const T* sin, int64_t n, int64_t heads, int64_t d,
          int sign) {
  Table<T>().rope(x, position, cos, sin, n, heads, d, sign);
}

template <typename T>
void SwiGluForward(const T* gate, const T* up, int64_t count, T* y) {
  Table<T>().swi_glu_forward(gate, up, count, y);
}

template <typename T>
void SwiGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup) {
  Table<T>().swi_glu_backward(gate, up, dy, count, dgate, dup);
}

template <typename T>
void GeGluForward(const T* gate, const T* up, int64_t count, T* y) {
  Table<T>().ge_glu_forward(gate, up, count, y);
}

template <typename T>
void GeGluBackward(const T* gate, const T* up, const T* dy, int64_t count, T* dgate, T* dup) {
  Table<T>().ge_glu_backward(gate, up, dy, count, dgate, dup);
}

template <typename T>
void LogSoftmaxRows(const T* logits, const int32_t* target, int64_t rows, int64_t V, T temperature,
                    T* logprob, T* lse, T* entropy) {
  Table<T>().log_softmax_rows(logits, target, rows, V, temperature, logprob, lse, entropy);
}

template <typename T>
void LogSoftmaxRowsBackward(T* logits, const int32_t* target, const T* lse, const T* g, const T* e,
                            const T* entropy, int64_t rows, int64_t V, T temperature) {
  Table<T>().log_softmax_rows_backward(logits, target, lse, g, e, entropy, rows, V, temperature);
}

template <typename T>
void KlRows(const T* a, const T* b, int64_t rows, int64_t V, T* kl) {
  Table<T>().kl_rows(a, b, rows, V, kl);
}

template <typename T>
void KlRowsBackward(T* a, const T* b, const T* weight, int64_t rows, int64_t V, T* kl) {
  Table<T>().kl_rows_backward(a, b, weight, rows, V, kl);
}

template <typename T>
void SampleRows(const T* logits, int64_t rows, int64_t V, const float* temperature, const float* top_p,
                const int32_t* top_k, const uint64_t* key, const int64_t* position, int32_t* token,
                float* logprob) {
  Table<T>().sample_rows(logits, rows, V, temperature, top_p, top_k, key, position, token, logprob);
}

template <typename T>
double AdamW(T* value, T* first_moment, T* second_moment, const T* grad, const AdamWStep& step) {
  return Table<T>().adam_w(value, first_moment, second_moment, grad, step);
}

template <typename T>
void SparseForward(const SparseMatrix& pattern, const T* values, T scale, const T* x, int64_t m, T* y) {
  Table<T>().sparse_forward(pattern, values, scale, x, m, y);
}

template <typename T>
void SparseBackwardInput(const SparseMatrix& pattern, const T* values, T scale, const T* dy, int64_t m,
                         T* dx) {
  Table<T>().sparse_backward_input(pattern, values, scale, dy, m, dx);
}

template <typename T>
void SparseBackwardValues(const SparseMatrix& pattern, T scale, const T* x, const T* dy, int64_t m,
                          T* dvalues) {
  Table<T>().sparse_backward_values(pattern, scale, x, dy, m, dvalues);
}

void SplitBf16(const float* x, int64_t ldx, int64_t rows, int64_t padded, int64_t c, int terms,
               uint16_t* to) {
  Selected().split_bf16(x, ldx, rows, padded, c, terms, to);
}

#define SELFEDIT_INSTANTIATE(T)                                                                              \
  template void AttentionForward(const T*, const T*, const T*, const int32_t*, const int32_t*, int64_t,      \
                                 int64_t, int64_t, int64_t, T, int64_t, T*, T*);                             \
  template void AttentionBackward(const T*, const T*, const T*, const T*, const T*, const T*,                \
                                  const int32_t*, const int32_t*, int64_t, int64_t, int64_t, int64_t, T,     \
                                  int64_t, T*, T*, T*);                                                      \
  template void AttentionDecode(const T*, const T* const*, const T* const*, const int32_t*, const T* const*, \
                                const T* const*, const int32_t*, int64_t, int64_t, int64_t, int64_t, T, T*); \
  template void RmsNormForward(const T*, const T*, int64_t, int64_t, T, T*, T*);                             \
  template void RmsNormBackward(const T*, const T*, const T*, const T*, int64_t, int64_t, bool, T*);         \
  template void Rope(T*, const int32_t*, const T*, const T*, int64_t, int64_t, int64_t, int);                \
  template void SwiGluForward(const T*, const T*, int64_t, T*);                                              \
  template void SwiGluBackward(const T*, const T*, const T*, int64_t, T*, T*);                               \
  template void GeGluForward(const T*, const T*, int64_t, T*);                                               \
  template void GeGluBackward(const T*, const T*, const T*, int64_t, T*, T*);                                \
  template void LogSoftmaxRows(const T*, const int32_t*, int64_t, int64_t, T, T*, T*, T*);                   \
  template void LogSoftmaxRowsBackward(T*, const int32_t*, const T*, const T*, const T*, const T*, int64_t,  \
                                       int64_t, T);                                                          \
  template void KlRows(const T*, const T*, int64_t, int64_t, T*);                                            \
  template void KlRowsBackward(T*, const T*, const T*, int64_t, int64_t, T*);                                \
  template void SampleRows(const T*, int64_t, int64_t, const float*, const float*, const int32_t*,           \
                           const uint64_t*, const int64_t*, int32_t*, float*);                               \
  template double AdamW(T*, T*, T*, const T*, const AdamWStep&);                                             \
  template void SparseForward(const SparseMatrix&, const T*, T, const T*, int64_t, T*);                      \
  template void SparseBackwardInput(const SparseMatrix&, const T*, T, const T*, int64_t, T*);                \
  template void SparseBackwardValues(const SparseMatrix&, T, const T*, const T*, int64_t, T*)
SELFEDIT_INSTANTIATE(float);
SELFEDIT_INSTANTIATE(double);

}  // namespace selfedit::cpu
