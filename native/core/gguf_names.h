// Names of tensors in GGUF files.
#pragma once
#include <string>

namespace selfedit {

// Tensors whose values are already part of the configuration as its rope scaling.
constexpr const char* kRotaryFactors[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                          "rope_factors_short.weight"};

struct LoadSpec;

// Hugging Face name of a tensor; empty when it is not one of the graph.
std::string FromGgufName(const std::string& name, const LoadSpec& spec);

}  // namespace selfedit
