// A model with its deltas merged, written as safetensors: what no delta touches as it is stored, the rest
// computed in float64 and rounded once.
#pragma once
#include <string>
#include <vector>

#include "core/delta.h"
#include "format/tensor_file.h"

namespace selfedit {

// One tensor to write. It holds the `weights`, by their rows one under the other (Phi-3's fused maps have
// several); none for a tensor that no delta can change.
struct MergedTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string stored;            // its name in the base's files; empty: values come from the model
  std::vector<int64_t> weights;  // ids of Model::tensors
  double offset = 0;             // added to values of the model: -1 where files keep gains without their 1
};

struct MergedShard {
  std::string path;
  std::vector<MergedTensor> tensors;
};

struct MergeSpec {
  Fork fork;
  std::vector<std::string> files;  // safetensors of the base, for `stored`; else empty
  std::vector<MergedShard> shards;
};

// Writes the shards one after the other, each whole or not at all, a few megabytes at a time. Progress counts
// bytes. Errors: TENSOR_MISSING, TENSOR_SHAPE (the base's files have changed), WEIGHT_NOT_FINITE (a value
// does not fit into the type), ABORTED, IO.
void WriteMerged(const MergeSpec& spec, const JobControl& control);

}  // namespace selfedit
