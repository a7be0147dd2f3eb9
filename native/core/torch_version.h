// All that differs between libtorch 2.11 and 2.14 lives here.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
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

}  // namespace selfedit::torch_version
