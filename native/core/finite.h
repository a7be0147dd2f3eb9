// Weights are looked at once, when a model is loaded: NaN and infinite values are refused.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/stored.h"

namespace selfedit {

// Whether none of `count` values of this type (float32, bfloat16 or float64) is NaN or infinite.
bool AllFinite(DType dtype, const void* values, int64_t count);

[[noreturn]] void FailNotFinite(const StoredTensor& tensor);

// Reads tensors that are used where they lie, all together in the order of their files: as fast as the memory
// allows (one tensor after the other, by a page fault for every few pages, took 1.6 times as long). Throws
// WEIGHT_NOT_FINITE, naming the first such tensor. `checked` is told every few hundredths of a second how
// many bytes have been read since the last time; what it throws ends the check.
void CheckFinite(std::vector<StoredTensor> tensors, const std::function<void(int64_t bytes)>& checked);

}  // namespace selfedit
