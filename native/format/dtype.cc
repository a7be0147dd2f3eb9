#include "format/dtype.h"

#include <array>
#include <cstddef>

namespace selfedit {
namespace {

// In the order of DType. Sizes of the quantised blocks are those of ggml-common.h.
constexpr std::array<DTypeTraits, 20> kTraits = {{
    {"F64", 1, 8, 28},           {"F32", 1, 4, 0},       {"F16", 1, 2, 1},
    {"BF16", 1, 2, 30},          {"I64", 1, 8, 27},      {"I32", 1, 4, 26},
    {"I16", 1, 2, 25},           {"I8", 1, 1, 24},       {"U8", 1, 1, kNoGgmlType},
    {"BOOL", 1, 1, kNoGgmlType}, {"Q4_0", 32, 18, 2},    {"Q4_1", 32, 20, 3},
    {"Q5_0", 32, 22, 6},         {"Q5_1", 32, 24, 7},    {"Q8_0", 32, 34, 8},
    {"Q2_K", 256, 84, 10},       {"Q3_K", 256, 110, 11}, {"Q4_K", 256, 144, 12},
    {"Q5_K", 256, 176, 13},      {"Q6_K", 256, 210, 14},
}};
static_assert(kTraits.size() == static_cast<size_t>(DType::kQ6_K) + 1);

}  // namespace

const DTypeTraits& Traits(DType dtype) { return kTraits[static_cast<size_t>(dtype)]; }

std::optional<DType> DTypeFromGgml(uint32_t type) {
  for (size_t i = 0; i < kTraits.size(); ++i) {
    if (type != kNoGgmlType && kTraits[i].ggml_type == type) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<DType> DTypeFromSafetensors(std::string_view name) {
  for (size_t i = 0; i < kTraits.size(); ++i) {
    if (kTraits[i].block_elements == 1 && kTraits[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::string GgmlTypesText() {
  std::string text;
  for (const DTypeTraits& traits : kTraits) {
    if (traits.ggml_type != kNoGgmlType) text.append(text.empty() ? "" : ", ").append(traits.name);
  }
  return text;
}

std::string SafetensorsTypesText() {
  std::string text;
  for (const DTypeTraits& traits : kTraits) {
    if (traits.block_elements == 1) text.append(text.empty() ? "" : ", ").append(traits.name);
  }
  return text;
}

const char* GgmlTypeName(uint32_t type) {
  static constexpr const char* kNames[] = {
      "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",       "Q4_3",       "Q5_0",       "Q5_1",
      "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",
      "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL",     "IQ3_S",      "IQ2_S",      "IQ4_XS",
      "I8",       "I16",      "I32",     "I64",   "F64",        "IQ1_M",      "BF16",       "Q4_0_4_4",
      "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
  return type < std::size(kNames) ? kNames[type] : "unknown";
}

const char* DTypeName(DType dtype) { return Traits(dtype).name.data(); }
int64_t DTypeBlockElements(DType dtype) { return Traits(dtype).block_elements; }
int64_t DTypeBlockBytes(DType dtype) { return Traits(dtype).block_bytes; }

}  // namespace selfedit
