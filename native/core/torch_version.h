// All that differs between libtorch 2.11 and 2.14 lives here.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUBlas.h>
#include <torch/headeronly/version.h>

#include <optional>
#include <string_view>

#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 11 || TORCH_VERSION_MINOR > 14
#error "selfedit builds against libtorch 2.11 to 2.14"
#endif

namespace selfedit::torch_version {

// oneDNN's packed product, as the inductor calls it: W reordered once, y = x W^T + b.
inline bool HasPackedLinear() {
  static const bool found =
      c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""}).has_value() &&
      c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_linear_weight", ""}).has_value();
  return found;
}

inline at::Tensor PackLinearWeight(const at::Tensor& weight, int64_t rows) {
  // The schema's batch size is a SymInt in some versions; a boxed call fits both.
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "");
  std::vector<c10::IValue> stack{weight, rows};
  handle.callBoxed(&stack);
  return stack.at(0).toTensor();
}

inline at::Tensor PackedLinear(const at::Tensor& x, const at::Tensor& packed,
                               const std::optional<at::Tensor>& bias) {
  using Signature =
      at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                 c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Signature>();
  return handle.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// oneDNN's product of small bfloat16 blocks with a float32 result, as the inductor's own kernels call it.
// True where the processor has matrix units.
inline bool HasBf16Blocks() {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
  static const bool found = at::native::cpublas::could_pack(at::kBFloat16);
  return found;
#else
  return false;
#endif
}

// from [k, n] -> to: pairs of rows interleaved. n is 16, 32, 48 or 64.
inline void PackBf16Block(int64_t k, int64_t n, const at::BFloat16* from, at::BFloat16* to) {
  at::native::cpublas::pack(k, n, n, n, at::kBFloat16, at::kBFloat16, from, to);
}

// c [m, n] (+)= a [m, k] b, b packed.
inline void MultiplyBf16Block(int64_t m, int64_t n, int64_t k, const at::BFloat16* a, int64_t lda,
                              const at::BFloat16* b, float* c, int64_t ldc, bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, n, ldc, add, a, b, c);
}

// After the last product of a thread: lets go of the matrix units.
inline void EndBf16Blocks() { at::native::cpublas::brgemm_release(); }

}  // namespace selfedit::torch_version
