// Deltas of any kinds in safetensors files, bit-exact, written atomically: metadata "format" =
// "selfedit-delta-1"; tensors <weight>.<kind>.<field>, where the fields are
//   lowRank a, b; sparse row_offsets, columns, values; dense values; spectral u, sigma, v, values (see
//   DeltaPart; with its factors, so that the file is usable alone),
// and the scales as one float64 tensor "scales" [parts], by matrix id, then kind. Adapters of others:
// core/adapter_file.h.
#pragma once
#include <string>

#include "core/delta.h"

namespace selfedit {

void SaveDelta(const Delta& delta, const Model& model, const std::string& path);
// Errors: those of TensorFile::Open, FILE_FORMAT, TENSOR_MISSING, TENSOR_UNEXPECTED, DELTA_SHAPE,
// DELTA_INVALID.
DeltaPtr LoadDelta(const Model& model, const std::string& path);
// Delta::Check of what was read from a file, which the errors then name.
void CheckRead(const Delta& delta, const Model& model, const std::string& path);

}  // namespace selfedit
