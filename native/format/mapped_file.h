// A file's bytes, read-only. Mapped, so that opening a model costs no memory and pages are read when first
// touched.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace selfedit {

/// Immutable bytes with a name for error messages; safe to read from many threads.
/// A mapped file must not be shortened by another process while it is open (the kernel then raises SIGBUS);
/// every writer of this package replaces files by rename, which leaves an open mapping intact.
class MappedFile {
 public:
  /// Maps a regular file. Errors: FILE_UNSAFE (a pickle by name), FILE_NOT_FOUND, FILE_FORMAT (not a regular
  /// file), IO.
  static std::shared_ptr<const MappedFile> Open(const std::string& path);
  /// The same view of bytes in memory, for tests and fuzzing; `name` stands for the path in messages.
  static std::shared_ptr<const MappedFile> FromBytes(const std::string& name, std::vector<uint8_t> bytes);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  /// Null when the file is empty.
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  /// Hint: these bytes are about to be read. Their pages are mapped at once, instead of by one fault for
  /// every few.
  void Prefetch(size_t offset, size_t bytes) const;
  /// Hint: these bytes will not be read again soon. They stay readable.
  void Forget(size_t offset, size_t bytes) const;

 private:
  explicit MappedFile(std::string path) : path_(std::move(path)) {}

  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
  std::vector<uint8_t> bytes_;
};

/// Throws FILE_UNSAFE when the name is one of PyTorch's pickle files (.bin, .pt, .pth, .ckpt, .pkl, .pickle).
void RefusePickleName(const std::string& path);

}  // namespace selfedit
