#include "format/file_calls.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <utility>

namespace selfedit {
namespace {

constexpr FileCalls kSystem = {
    [](const char* path, int flags, mode_t mode) { return open(path, flags, mode); },
    [](int fd, const void* data, size_t bytes) { return write(fd, data, bytes); },
    [](int fd) { return fsync(fd); },
    [](int fd) { return close(fd); },
    [](const char* from, const char* to) { return std::rename(from, to); },
};

struct Plan {
  std::mutex mutex;
  int64_t at = -1;
  FileFault fault = FileFault::kNone;
  int error = 0;
  FileCallNames made;
};

Plan& ThePlan() {
  static Plan plan;
  return plan;
}

std::string PathOf(int fd) {
  char path[PATH_MAX];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return length < 0 ? "?" : std::string(path, static_cast<size_t>(length));
}

/// What is to be done to this call, and the errno.
std::pair<FileFault, int> Next(const std::string& call) {
  Plan& plan = ThePlan();
  const std::lock_guard<std::mutex> lock(plan.mutex);
  const auto number = static_cast<int64_t>(plan.made.size());
  plan.made.push_back(call);
  return number == plan.at ? std::make_pair(plan.fault, plan.error) : std::make_pair(FileFault::kNone, 0);
}

void Kill() { kill(getpid(), SIGKILL); }

template <typename Call>
int Do(const std::string& name, Call call) {
  const auto [fault, error] = Next(name);
  if (fault == FileFault::kKill) Kill();
  if (fault == FileFault::kError) {
    errno = error;
    return -1;
  }
  const int result = call();
  if (fault == FileFault::kTorn) Kill();
  return result;
}

ssize_t CountedWrite(int fd, const void* data, size_t bytes) {
  const auto [fault, error] = Next("write " + PathOf(fd));
  if (fault == FileFault::kKill) Kill();
  if (fault == FileFault::kError) {
    errno = error;
    return -1;
  }
  const bool half = fault == FileFault::kShort || fault == FileFault::kTorn;
  const ssize_t written = write(fd, data, half ? (bytes + 1) / 2 : bytes);
  if (fault == FileFault::kTorn) Kill();
  return written;
}

constexpr FileCalls kCounted = {
    [](const char* path, int flags, mode_t mode) {
      const char* name = (flags & O_DIRECTORY) != 0 ? "opendir " : "open ";
      return Do(std::string(name) + path, [&] { return open(path, flags, mode); });
    },
    CountedWrite,
    [](int fd) { return Do("fsync " + PathOf(fd), [&] { return fsync(fd); }); },
    [](int fd) {
      const auto [fault, error] = Next("close " + PathOf(fd));
      if (fault == FileFault::kKill) Kill();
      const int result = close(fd);  // else the descriptor would leak
      if (fault == FileFault::kTorn) Kill();
      if (fault != FileFault::kError) return result;
      errno = error;
      return -1;
    },
    [](const char* from, const char* to) {
      return Do(std::string("rename ") + from + '\t' + to, [&] { return std::rename(from, to); });
    },
};

std::atomic<const FileCalls*> calls{&kSystem};

}  // namespace

const FileCalls& Files() { return *calls.load(std::memory_order_acquire); }

FileCallNames PlanFileFault(int64_t at, FileFault fault, int error) {
  Plan& plan = ThePlan();
  const std::lock_guard<std::mutex> lock(plan.mutex);
  plan.at = at;
  plan.fault = fault;
  plan.error = error;
  calls.store(at < 0 ? &kSystem : &kCounted, std::memory_order_release);
  return std::exchange(plan.made, {});
}

}  // namespace selfedit
