#include "format/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "format/error.h"

namespace selfedit {
namespace {

/// Closes a descriptor on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

size_t PageSize() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

void RefusePickleName(const std::string& path) {
  std::string name = path;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* extension : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}) {
    if (EndsWith(name, extension)) {
      throw Error("FILE_UNSAFE",
                  path + ": " + extension +
                      " files are Python pickles, which can run code when they are read; expected "
                      ".safetensors or .gguf. Convert to safetensors first, for example with "
                      "model.save_pretrained(folder, safe_serialization=True) in transformers");
    }
  }
}

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  RefusePickleName(path);
  // A path with a zero byte would silently name another file.
  if (path.find('\0') != std::string::npos) throw Error("FILE_NOT_FOUND", "path has a zero byte");
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    throw Error(missing ? "FILE_NOT_FOUND" : "IO", path + ": cannot open: " + std::strerror(errno));
  }
  struct stat status;
  if (fstat(file.fd, &status) != 0) throw Error("IO", path + ": cannot stat: " + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) {
    throw Error("FILE_FORMAT", path + ": expected a regular file, found " +
                                   (S_ISDIR(status.st_mode) ? "a folder" : "a pipe, socket or device"));
  }
  std::shared_ptr<MappedFile> result(new MappedFile(path));
  result->size_ = static_cast<size_t>(status.st_size);
  if (result->size_ == 0) return result;  // mmap refuses length 0
  void* address = mmap(nullptr, result->size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) throw Error("IO", path + ": cannot map: " + std::strerror(errno));
  result->data_ = static_cast<const uint8_t*>(address);
  result->mapped_ = true;
  return result;
}

std::shared_ptr<const MappedFile> MappedFile::FromBytes(const std::string& name, std::vector<uint8_t> bytes) {
  RefusePickleName(name);
  std::shared_ptr<MappedFile> result(new MappedFile(name));
  result->bytes_ = std::move(bytes);
  result->size_ = result->bytes_.size();
  if (result->size_ > 0) result->data_ = result->bytes_.data();
  return result;
}

void MappedFile::Prefetch(size_t offset, size_t bytes) const {
  if (!mapped_ || bytes == 0) return;
#ifdef MADV_POPULATE_READ
  // A kernel before 5.14 refuses, and a page that cannot be read fails when it is looked at: as without the
  // hint.
  const size_t begin = offset / PageSize() * PageSize();
  madvise(const_cast<uint8_t*>(data_) + begin, offset + bytes - begin, MADV_POPULATE_READ);
#endif
}

void MappedFile::Forget(size_t offset, size_t bytes) const {
  if (!mapped_) return;
  // Whole pages only; they are read from the file again if someone does look.
  const size_t page = PageSize();
  const size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
  if (begin < end) madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (mapped_) munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace selfedit
