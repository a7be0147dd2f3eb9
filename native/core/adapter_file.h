// Low-rank factors in files of others: PEFT's safetensors and llama.cpp's GGUF. What a file calls them, and
// what its configuration says about them, is TypeScript's business (lib/format/).
#pragma once
#include <string>
#include <vector>

#include "core/delta.h"

namespace selfedit {

// Where one low-rank part lies in a file.
struct FactorSource {
  int64_t matrix = 0;
  double scale = 1;
  std::string a, b;            // tensors [r, in] and [rows, r]
  int64_t first_row = 0;       // of b, where one map of the file is several weights (Phi-3)
  int64_t permuted_heads = 0;  // rows of b are permuted within this many heads (GGUF of the Llama family)
  // PEFT's embeddings: a [r, vocabulary], b [hidden, r] are the transposes of B and A.
  bool transposed = false;
};

// A copy of one of the model's own weights, which PEFT saves beside the factors of an embedding or head.
struct BaseCopy {
  std::string tensor;
  int64_t weight = 0;
};

// Reads the parts, in the model's type. Every tensor of the file must be asked for, and copies must be what
// the model has. Errors: those of TensorFile::Open, TENSOR_MISSING, TENSOR_UNEXPECTED, DELTA_SHAPE,
// DELTA_INVALID, FILE_FORMAT.
DeltaPtr LoadFactors(const Model& model, const std::string& path, const std::vector<FactorSource>& sources,
                     const std::vector<BaseCopy>& copies = {});

// The change of one map of a file.
struct ModuleFactors {
  std::string module;  // "model.layers.0.self_attn.q_proj"
  at::Tensor a, b;     // [r, in], [out, r]
  double scale = 1;
  bool embedding = false;
};

// Low-rank parts by the maps that files have. With `fused`, parts of q, k and v become one of qkv_proj, and
// of gate and up one of gate_up_proj: with the same A where all of them are there with bit-equal A's and the
// same scale, else block by block with their ranks added up; other scales than the first's then go into B.
std::vector<ModuleFactors> FactorsByModule(const Delta& delta, const Model& model, bool fused);

// PEFT's adapter_model.safetensors: float32, or float64 for a float64 model.
void WritePeft(const std::vector<ModuleFactors>& modules, const std::string& path);

// How llama.cpp names a map, and how it keeps it.
struct GgufMap {
  std::string module, tensor;
  int64_t permuted_heads = 0;
};

// An adapter that llama.cpp's --lora reads: float32, one alpha for all. Where the scale of a map is not
// alpha / rank in float32, the quotient goes into its B.
void WriteGgufLora(const std::vector<ModuleFactors>& modules, const std::vector<GgufMap>& maps,
                   const std::string& architecture, const std::string& path);

}  // namespace selfedit
