#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <thread>

#include "format/safetensors_writer.h"
#include "format/sha256.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using format_test::ExpectError;
using format_test::ReadFile;
using format_test::TemporaryFolder;
using format_test::WriteFile;

TEST(FormatMappedFile, MapsARegularFile) {
  const TemporaryFolder folder;
  WriteFile(folder / "x", "hello");
  const auto file = MappedFile::Open(folder / "x");
  ASSERT_EQ(file->size(), 5u);
  EXPECT_EQ(std::memcmp(file->data(), "hello", 5), 0);
  WriteFile(folder / "empty", "");
  EXPECT_EQ(MappedFile::Open(folder / "empty")->size(), 0u);
}

TEST(FormatMappedFile, HintsChangeNothing) {
  const TemporaryFolder folder;
  const std::string text(100000, 'x');
  WriteFile(folder / "x", text);
  const auto file = MappedFile::Open(folder / "x");
  file->Prefetch(4095, 2);
  file->Prefetch(0, text.size());
  file->Forget(0, text.size());
  file->Prefetch(99999, 1);
  file->Prefetch(text.size(), 0);
  EXPECT_EQ(std::memcmp(file->data(), text.data(), text.size()), 0);
  const auto bytes = MappedFile::FromBytes("y", {1, 2, 3});
  bytes->Prefetch(0, 3);
  bytes->Forget(0, 3);
  EXPECT_EQ(bytes->data()[2], 3);
}

TEST(FormatMappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  ExpectError([&] { MappedFile::Open(folder / "none.gguf"); }, "FILE_NOT_FOUND", {"none.gguf"});
  WriteFile(folder / "x", "hello");
  ExpectError([&] { MappedFile::Open(folder / "x/y.gguf"); }, "FILE_NOT_FOUND", {"y.gguf"});
  ExpectError([&] { MappedFile::Open(folder / ""); }, "FILE_FORMAT", {"a folder"});
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  ExpectError([&] { MappedFile::Open(folder / "pipe"); }, "FILE_FORMAT", {"a pipe"});  // and does not hang
  ExpectError([&] { MappedFile::Open((folder / "x") + std::string(1, '\0') + ".gguf"); }, "FILE_NOT_FOUND");
}

TEST(FormatMappedFile, RefusesPicklesByNameAndByContent) {
  const TemporaryFolder folder;
  for (const char* name :
       {"pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "a.pickle", "PYTORCH_MODEL.BIN"}) {
    WriteFile(folder / name, "x");
    ExpectError([&] { MappedFile::Open(folder / name); }, "FILE_UNSAFE", {name, "safetensors"});
  }
  ExpectError([&] { MappedFile::Open(folder / "not-there.bin"); }, "FILE_UNSAFE");
  WriteFile(folder / "zip.safetensors", std::string("PK\x03\x04", 4) + std::string(40, 'x'));
  ExpectError([&] { TensorFile::Open(folder / "zip.safetensors"); }, "FILE_UNSAFE", {"pickle"});
  WriteFile(folder / "old.gguf", std::string("\x80\x02", 2) + std::string(40, 'x'));
  ExpectError([&] { TensorFile::Open(folder / "old.gguf"); }, "FILE_UNSAFE", {"pickle"});
}

TEST(FormatTensorFile, SaysWhatAStrangeFileIs) {
  const TemporaryFolder folder;
  WriteFile(folder / "lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  ExpectError([&] { TensorFile::Open(folder / "lfs"); }, "FILE_FORMAT", {"Git LFS pointer"});
  WriteFile(folder / "lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  ExpectError([&] { TensorFile::Open(folder / "lfs.safetensors"); }, "FILE_FORMAT", {"Git LFS pointer"});
  WriteFile(folder / "page", "<!DOCTYPE html><html>");
  ExpectError([&] { TensorFile::Open(folder / "page"); }, "FILE_FORMAT", {"web page"});
  WriteFile(folder / "empty", "");
  ExpectError([&] { TensorFile::Open(folder / "empty"); }, "FILE_TRUNCATED", {"empty"});
  WriteFile(folder / "noise", "abcdefghijkl");
  ExpectError([&] { TensorFile::Open(folder / "noise"); }, "FILE_FORMAT", {"\"abcdefgh\""});
  // A format that was asked for is held to.
  WriteFile(folder / "x", "GGUF\x03");
  ExpectError([&] { TensorFile::Open(folder / "x", Format::kSafetensors); }, "FILE_TRUNCATED",
              {"safetensors"});
  WriteFile(folder / "y", std::string("GGUF\x03\0\0\0\0\0", 10));
  ExpectError([&] { TensorFile::Open(folder / "y", Format::kSafetensors); }, "FILE_FORMAT", {"a GGUF file"});
}

TEST(FormatAtomicWrite, ReplacesAFileAndLeavesNothingElse) {
  const TemporaryFolder folder;
  AtomicWriteFile(folder / "x", "one");
  EXPECT_EQ(ReadFile(folder / "x"), "one");
  const auto open = MappedFile::Open(folder / "x");
  AtomicWriteFile(folder / "x", std::string_view("t\0o", 3));
  EXPECT_EQ(ReadFile(folder / "x"), std::string("t\0o", 3));
  EXPECT_EQ(std::memcmp(open->data(), "one", 3), 0);  // an open mapping keeps the old bytes
  AtomicWriteFile(folder / "x", "");
  EXPECT_EQ(ReadFile(folder / "x"), "");
  EXPECT_EQ(folder.List(), std::vector<std::string>{"x"});
}

TEST(FormatAtomicWrite, WritesIntoTheWorkingFolder) {
  const TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder / "");
  AtomicWriteFile("plain", "x");
  std::filesystem::current_path(before);
  EXPECT_EQ(ReadFile(folder / "plain"), "x");
}

TEST(FormatAtomicWrite, ManyThreadsWriteOneName) {
  const TemporaryFolder folder;
  std::vector<std::thread> threads;
  for (char c = 'a'; c < 'e'; ++c) {
    threads.emplace_back([&folder, c] {
      for (int i = 0; i < 5; ++i) AtomicWriteFile(folder / "x", std::string(10000, c));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = ReadFile(folder / "x");
  EXPECT_EQ(text, std::string(10000, text[0]));
  EXPECT_EQ(folder.List(), std::vector<std::string>{"x"});
}

TEST(FormatAtomicWrite, FailsCleanlyWhereItCannotWrite) {
  const TemporaryFolder folder;
  ExpectError([&] { AtomicWriteFile(folder / "no/such/x", "x"); }, "IO", {"no/such/x"});
  // The rename fails at the very end.
  std::filesystem::create_directories(folder / "taken/full");
  ExpectError([&] { AtomicWriteFile(folder / "taken", "x"); }, "IO", {"taken"});
  EXPECT_EQ(folder.List(), std::vector<std::string>{"taken"});
}

/// Makes writes beyond `bytes` of a file fail (EFBIG, as a full disk fails with ENOSPC) while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    signal_ = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, signal_);
  }

 private:
  rlimit before_;
  void (*signal_)(int);
};

TEST(FormatAtomicWrite, AFullDiskLeavesTheEarlierFile) {
  const TemporaryFolder folder;
  const std::vector<float> values(5000, 1.0f);
  AtomicWriteFile(folder / "x", "earlier");
  std::string bytes_error, tensors_error;
  {
    const FileSizeLimit limit(10000);
    try {
      AtomicWriteFile(folder / "x", std::string(20000, 'x'));
    } catch (const Error& error) {
      bytes_error = error.code();
    }
    try {
      WriteSafetensors(folder / "x", {{"w", DType::kF32, {5000}, values.data()}});
    } catch (const Error& error) {
      tensors_error = error.code();
    }
  }
  EXPECT_EQ(bytes_error, "IO");
  EXPECT_EQ(tensors_error, "IO");
  EXPECT_EQ(ReadFile(folder / "x"), "earlier");
  EXPECT_EQ(folder.List(), std::vector<std::string>{"x"});
}

TEST(FormatSha256, AgreesWithTheStandard) {
  // FIPS 180-4 examples, and a million times "a".
  const std::pair<std::string, const char*> cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, hex] : cases) {
    for (const bool plain : {false, true}) {
      Sha256 hash(plain);
      hash.Update(text.data(), text.size());
      EXPECT_EQ(hash.HexDigest(), hex);
    }
  }
}

TEST(FormatSha256, DoesNotDependOnHowTheBytesArrive) {
  std::string text;
  for (int i = 0; i < 300; ++i) text.push_back(static_cast<char>(i * 7));
  for (size_t length = 0; length <= text.size(); ++length) {  // every padding
    Sha256 whole, plain(true), pieces;
    whole.Update(text.data(), length);
    plain.Update(text.data(), length);
    for (size_t at = 0, step = 1; at < length; at += step, step = step % 97 + 13) {
      step = std::min(step, length - at);
      pieces.Update(text.data() + at, step);
    }
    pieces.Update(nullptr, 0);
    const std::string expected = plain.HexDigest();
    EXPECT_EQ(whole.HexDigest(), expected);
    EXPECT_EQ(pieces.HexDigest(), expected);
  }
}

}  // namespace
}  // namespace selfedit
