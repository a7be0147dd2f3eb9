// The table of element types. Internal to native/format.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "format/tensor_file.h"

namespace selfedit {

constexpr uint32_t kNoGgmlType = UINT32_MAX;

struct DTypeTraits {
  std::string_view name;  // of a string literal, so zero-terminated
  int64_t block_elements;
  int64_t block_bytes;
  uint32_t ggml_type;
};

const DTypeTraits& Traits(DType dtype);
std::optional<DType> DTypeFromGgml(uint32_t type);
std::optional<DType> DTypeFromSafetensors(std::string_view name);
/// "F64, F32, …": the types that each format's reader takes, for messages.
std::string GgmlTypesText();
std::string SafetensorsTypesText();
/// Name of any GGML type, supported or not, for messages.
const char* GgmlTypeName(uint32_t type);

}  // namespace selfedit
