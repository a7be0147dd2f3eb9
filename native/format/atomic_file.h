// A file that appears under its name only when it is complete. Internal to native/format.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "format/tensor_to_write.h"

namespace selfedit {

/// Writes to a temporary name in the same folder; Commit makes it durable and renames it. Destroyed without
/// Commit, or after an error, it removes the temporary file and leaves an earlier file of that name as it
/// was. Errors: IO.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(const void* data, size_t bytes);
  void Commit();

 private:
  [[noreturn]] void Fail(const char* what, int error) const;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

/// Writes all of a tensor of that many bytes. Throws INTERNAL when its producer gives another number of them.
void WriteTensor(const TensorToWrite& tensor, uint64_t bytes, AtomicFile* file);

}  // namespace selfedit
