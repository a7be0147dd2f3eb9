// Writes GGUF files (version 3, little-endian), whole or not at all.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "format/tensor_to_write.h"

namespace selfedit {

using GgufValue = std::variant<std::string, uint32_t, float, bool>;

/// Writes metadata and tensors to `path` in the given order, each tensor at a multiple of 32 bytes: temporary
/// name in the same folder, fsync, rename, fsync of the folder. Errors: IO (the temporary file is removed, an
/// earlier file is untouched); INTERNAL for what llama.cpp would not read: empty, too long (64 bytes and
/// more) or repeated names, keys that are not UTF-8 or repeated, types that GGUF lacks, more than 4
/// dimensions, rows that are no whole number of blocks; and for a producer that gives more or fewer bytes
/// than its tensor has.
void WriteGguf(const std::string& path, const std::vector<std::pair<std::string, GgufValue>>& metadata,
               const std::vector<TensorToWrite>& tensors);

}  // namespace selfedit
