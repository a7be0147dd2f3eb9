// Writes safetensors files, and any file, so that a crash or a full disk leaves the earlier file intact.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/tensor_to_write.h"

namespace selfedit {

/// Writes `tensors` and string metadata to `path`: temporary name in the same folder, fsync, rename, fsync of
/// the folder. Tensors are laid out like the safetensors library does: by type, largest alignment first, then
/// by name. Errors: IO (the temporary file is removed, an earlier file is untouched); INTERNAL for duplicate
/// or reserved names, negative dimensions, quantised types, and a producer that gives more or fewer bytes
/// than its tensor has.
void WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata = {});

/// The same way of replacing a file, for any bytes. Errors: IO.
void AtomicWriteFile(const std::string& path, std::string_view bytes);

}  // namespace selfedit
