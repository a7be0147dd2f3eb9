// What the tests of native/format share: a temporary folder, files built byte by byte, and a check of error
// codes.
#pragma once
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "format/error.h"
#include "format/mapped_file.h"
#include "format/tensor_file.h"

namespace selfedit::format_test {

using Bytes = std::vector<uint8_t>;

/// A new empty folder, removed with its contents at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = ::testing::TempDir() + "selfedit-format-XXXXXX";
    if (!mkdtemp(name.data())) ADD_FAILURE() << "cannot make " << name;
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// Names of the files in it.
  std::vector<std::string> List() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

inline void WriteFile(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

/// `action` must throw Error of that code, with every one of `words` in the message.
inline void ExpectError(const std::function<void()>& action, const std::string& code,
                        const std::vector<std::string>& words = {}) {
  try {
    action();
    ADD_FAILURE() << "expected " << code << ", nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "expected \"" << word << "\" in: " << error.what();
    }
  }
}

template <typename T>
void Append(Bytes* bytes, T value) {
  uint8_t raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes->insert(bytes->end(), raw, raw + sizeof value);
}

inline std::shared_ptr<const TensorFile> OpenBytes(Bytes bytes, const std::string& name = "test.file") {
  return TensorFile::Open(MappedFile::FromBytes(name, std::move(bytes)));
}

/// A safetensors file of a given header text, with the data bytes 0, 1, 2, …
inline Bytes Safetensors(const std::string& header, size_t data_bytes) {
  Bytes bytes;
  Append<uint64_t>(&bytes, header.size());
  bytes.insert(bytes.end(), header.begin(), header.end());
  for (size_t i = 0; i < data_bytes; ++i) bytes.push_back(static_cast<uint8_t>(i));
  return bytes;
}

/// Builds GGUF files, right or wrong. Sections are raw bytes, counts can be made to lie.
struct Gguf {
  uint32_t version = 3;
  uint64_t tensor_count = 0, key_count = 0;
  uint32_t alignment = 32;  // of the padding written
  Bytes keys, infos, data;

  static void String(Bytes* out, std::string_view text) {
    Append<uint64_t>(out, text.size());
    out->insert(out->end(), text.begin(), text.end());
  }
  /// A key and its type; the caller appends the value to `keys`.
  Bytes* Key(std::string_view key, uint32_t type) {
    ++key_count;
    String(&keys, key);
    Append(&keys, type);
    return &keys;
  }
  /// `dimensions` in GGUF order, innermost first.
  void Tensor(std::string_view name, std::vector<uint64_t> dimensions, uint32_t type, uint64_t offset) {
    ++tensor_count;
    String(&infos, name);
    Append<uint32_t>(&infos, static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t dimension : dimensions) Append(&infos, dimension);
    Append(&infos, type);
    Append(&infos, offset);
  }
  Bytes Build() const {
    Bytes out = {'G', 'G', 'U', 'F'};
    Append(&out, version);
    Append(&out, tensor_count);
    Append(&out, key_count);
    out.insert(out.end(), keys.begin(), keys.end());
    out.insert(out.end(), infos.begin(), infos.end());
    if (tensor_count > 0) out.resize((out.size() + alignment - 1) / alignment * alignment);
    out.insert(out.end(), data.begin(), data.end());
    return out;
  }
};

}  // namespace selfedit::format_test
