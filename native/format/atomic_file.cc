#include "format/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "format/error.h"
#include "format/file_calls.h"

namespace selfedit {

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  if (path.find('\0') != std::string::npos) throw Error("IO", "cannot write: path has a zero byte");
  static std::atomic<unsigned> counter{0};
  // O_EXCL: never write through a name that someone else made. A left-over of a killed process of the same id
  // is passed by taking the next number.
  for (int attempt = 0; attempt < 100 && fd_ < 0; ++attempt) {
    temporary_ = path + "." + std::to_string(getpid()) + "." + std::to_string(counter++) + ".tmp";
    fd_ = Files().open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) Fail("cannot create a file beside it", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) Files().close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::Fail(const char* what, int error) const {
  throw Error("IO", path_ + ": " + what + ": " + std::strerror(error) +
                        (error == ENOSPC || error == EDQUOT ? "; free some space and try again" : "") +
                        ". An earlier file of this name is unchanged");
}

void AtomicFile::Write(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = Files().write(fd_, from, std::min(bytes, size_t{1} << 30));
    if (written < 0) {
      if (errno == EINTR) continue;
      Fail("cannot write", errno);
    }
    if (written == 0) Fail("cannot write", EIO);
    from += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::Commit() {
  if (Files().fsync(fd_) != 0) Fail("cannot write to disk", errno);
  const int fd = fd_;
  fd_ = -1;
  if (Files().close(fd) != 0) Fail("cannot write to disk", errno);
  if (Files().rename(temporary_.c_str(), path_.c_str()) != 0) Fail("cannot rename the finished file", errno);
  temporary_.clear();
  // The new name itself is durable only when its folder is. Some file systems cannot sync folders: then this
  // is all.
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, std::max<size_t>(slash, 1));
  const int folder_fd = Files().open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (folder_fd < 0) return;
  const int error = Files().fsync(folder_fd) == 0 ? 0 : errno;
  Files().close(folder_fd);
  if (error == EIO || error == ENOSPC) {
    throw Error("IO", path_ + ": written, but its folder cannot be synced: " + std::strerror(error));
  }
}

void WriteTensor(const TensorToWrite& tensor, uint64_t bytes, AtomicFile* file) {
  if (!tensor.produce) return file->Write(tensor.data, bytes);
  uint64_t written = 0;
  const auto check = [&](bool good, const char* what) {
    if (good) return;
    throw Error("INTERNAL", "tensor \"" + tensor.name + "\": " + what + " the " + std::to_string(bytes) +
                                " bytes that its type and shape need were produced");
  };
  tensor.produce([&](const void* data, size_t count) {
    check(count <= bytes - written, "more than");
    file->Write(data, count);
    written += count;
  });
  check(written == bytes, "fewer than");
}

}  // namespace selfedit
