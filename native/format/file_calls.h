// The system calls that save a file, each of which a test can make fail. Internal to native/format, and to
// the addon's call `fileFault`, which the package does not export.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace selfedit {

/// As the calls of POSIX: −1 and errno, or what they return.
struct FileCalls {
  int (*open)(const char* path, int flags, mode_t mode);
  ssize_t (*write)(int fd, const void* data, size_t bytes);
  int (*fsync)(int fd);
  int (*close)(int fd);
  int (*rename)(const char* from, const char* to);
};

/// The system's own, or those that are counted after `PlanFileFault`.
const FileCalls& Files();

enum class FileFault {
  kNone,   ///< calls are only counted
  kError,  ///< the call is not made and fails (`close` is made)
  kShort,  ///< a write writes half of its bytes; other calls are as ever
  kKill,   ///< the process is killed before the call
  kTorn,   ///< the process is killed after half of a write; after any other call
};

/// Calls in their order, as `write /path`; `rename /from<tab>/to`.
using FileCallNames = std::vector<std::string>;

/// Counts calls from 0 on and does `fault` to number `at`, once, with that errno; a negative `at` ends the
/// counting. Returns the calls counted before.
FileCallNames PlanFileFault(int64_t at, FileFault fault, int error);

}  // namespace selfedit
