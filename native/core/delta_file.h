// Deltas in safetensors files, bit-exact, written atomically.
//   only low-rank parts on linear maps: PEFT's layout, base_model.model.<matrix>.lora_A.weight and
//   lora_B.weight anything else: metadata "format" = "selfedit-delta-1"; tensors <matrix>.<kind>.<field>,
//   where the fields are
//     lowRank a, b; sparse row_offsets, columns, values; dense values; spectral u, sigma, v, values (see
//     DeltaPart; with its factors, so that the file is usable alone),
//   and the scales as one float64 tensor "scales" [parts], by matrix id, then kind
#pragma once
#include <string>
#include <vector>

#include "core/delta.h"

namespace selfedit {

void SaveDelta(const Delta& delta, const Model& model, const std::string& path);
// Of PEFT's layout, where scales are not part of the tensors: one for each matrix id (0 where the file may
// not have the matrix). Ignored by the other layout, which holds its own.
DeltaPtr LoadDelta(const Model& model, const std::string& path, const std::vector<double>& scale_of_matrix);

}  // namespace selfedit
