// The number of rows as a constant.
#pragma once
#include "simd.h"

namespace selfedit::cpu::SELFEDIT_ISA {
namespace {

// body(std::integral_constant<int, rows>), 1 <= rows <= kMost.
template <int kMost, typename Body>
SELFEDIT_INLINE void WithRows(int64_t rows, Body body) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return WithRows<kMost - 1>(rows, body);
  }
  body(std::integral_constant<int, kMost>());
}

}  // namespace
}  // namespace selfedit::cpu::SELFEDIT_ISA
