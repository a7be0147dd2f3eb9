// The kernels are compiled once per instruction set (isa_*.cc) and chosen at run time through these tables.
#pragma once
#include "kernels.h"
#include "sparse.h"

namespace selfedit::cpu {

template <typename T>
struct KernelTable {
  decltype(&AttentionForward<T>) attention_forward;
  decltype(&AttentionBackward<T>) attention_backward;
  decltype(&AttentionDecode<T>) attention_decode;
  decltype(&RmsNormForward<T>) rms_norm_forward;
  decltype(&RmsNormBackward<T>) rms_norm_backward;
  decltype(&Rope<T>) rope;
  decltype(&SwiGluForward<T>) swi_glu_forward;
  decltype(&SwiGluBackward<T>) swi_glu_backward;
  decltype(&GeGluForward<T>) ge_glu_forward;
  decltype(&GeGluBackward<T>) ge_glu_backward;
  decltype(&LogSoftmaxRows<T>) log_softmax_rows;
  decltype(&LogSoftmaxRowsBackward<T>) log_softmax_rows_backward;
  decltype(&KlRows<T>) kl_rows;
  decltype(&KlRowsBackward<T>) kl_rows_backward;
  decltype(&SampleRows<T>) sample_rows;
  decltype(&AdamW<T>) adam_w;
  decltype(&SparseForward<T>) sparse_forward;
  decltype(&SparseBackwardInput<T>) sparse_backward_input;
  decltype(&SparseBackwardValues<T>) sparse_backward_values;
};

struct KernelSet {
  const char* name;
  KernelTable<float> f32;
  KernelTable<double> f64;
  decltype(&SplitBf16) split_bf16;
};

namespace portable {
extern const KernelSet kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelSet kKernels;
}
namespace avx512 {
extern const KernelSet kKernels;
}
#endif

// For tests and benchmarks: uses the named instruction set ("avx512", "avx2", "portable") from now on, in
// every thread. False, and no change, when this machine lacks it.
bool SelectSimd(const char* name);
// Whether this machine can run the named instruction set.
bool SimdSupported(const char* name);

}  // namespace selfedit::cpu
