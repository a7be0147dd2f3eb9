#include <fcntl.h>

#include <cerrno>
#include <csignal>

#include "format/file_calls.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using format_test::ExpectError;
using format_test::ReadFile;
using format_test::TemporaryFolder;
using format_test::WriteFile;

/// Counting ends with the test.
class FormatFileCalls : public ::testing::Test {
 protected:
  ~FormatFileCalls() override { PlanFileFault(-1, FileFault::kNone, 0); }
  FileCallNames Save(const std::string& path) {
    PlanFileFault(0, FileFault::kNone, 0);
    AtomicWriteFile(path, "after");
    return PlanFileFault(-1, FileFault::kNone, 0);
  }
};

TEST_F(FormatFileCalls, AreOpenWriteFsyncCloseRenameAndTheFolders) {
  const TemporaryFolder folder;
  std::vector<std::string> kinds;
  for (const std::string& call : Save(folder / "x")) kinds.push_back(call.substr(0, call.find(' ')));
  EXPECT_EQ(kinds, (std::vector<std::string>{"open", "write", "fsync", "close", "rename", "opendir", "fsync",
                                             "close"}));
  AtomicWriteFile(folder / "x", "uncounted");
  EXPECT_TRUE(PlanFileFault(-1, FileFault::kNone, 0).empty());
}

TEST_F(FormatFileCalls, ThatFailLeaveTheEarlierFile) {
  const TemporaryFolder folder;
  for (const int error : {ENOSPC, EIO}) {
    for (int64_t at = 0; at < 5; ++at) {
      WriteFile(folder / "x", "before");
      PlanFileFault(at, FileFault::kError, error);
      ExpectError([&] { AtomicWriteFile(folder / "x", "after"); }, "IO",
                  {std::strerror(error), "An earlier file of this name is unchanged"});
      EXPECT_EQ(ReadFile(folder / "x"), "before") << at;
      EXPECT_EQ(folder.List(), std::vector<std::string>{"x"}) << at;
      AtomicWriteFile(folder / "x", "after");  // the fault comes once
      EXPECT_EQ(ReadFile(folder / "x"), "after");
    }
    // The file has its name by then.
    WriteFile(folder / "x", "before");
    PlanFileFault(6, FileFault::kError, error);
    ExpectError([&] { AtomicWriteFile(folder / "x", "after"); }, "IO", {"its folder cannot be synced"});
    EXPECT_EQ(ReadFile(folder / "x"), "after");
  }
}

TEST_F(FormatFileCalls, ThatWriteLessAreGoneOnWith) {
  const TemporaryFolder folder;
  PlanFileFault(1, FileFault::kShort, 0);
  AtomicWriteFile(folder / "x", "after");
  EXPECT_EQ(ReadFile(folder / "x"), "after");
  EXPECT_EQ(PlanFileFault(-1, FileFault::kNone, 0).size(), 9u);  // one more write
}

TEST_F(FormatFileCalls, ThatKillLeaveTheEarlierFile) {
  const TemporaryFolder folder;
  for (const FileFault fault : {FileFault::kKill, FileFault::kTorn}) {
    for (int64_t at = 0; at < 8; ++at) {
      WriteFile(folder / "x", "before");
      EXPECT_EXIT(
          {
            PlanFileFault(at, fault, 0);
            AtomicWriteFile(folder / "x", "after");
          },
          ::testing::KilledBySignal(SIGKILL), "");
      const bool renamed = at > 4 || (at == 4 && fault == FileFault::kTorn);
      EXPECT_EQ(ReadFile(folder / "x"), renamed ? "after" : "before") << at;
    }
  }
}

}  // namespace
}  // namespace selfedit
