// What the two readers hand to TensorFile, and the checks they share. Internal to native/format.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/json.h"
#include "format/mapped_file.h"
#include "format/tensor_file.h"

namespace selfedit {

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr uint64_t kMostStringBytes = 10 << 20;
/// Of a GGUF string that is not UTF-8.
constexpr uint64_t kMostBrokenStringBytes = 1 << 16;
constexpr uint64_t kMostKeys = 100'000;
constexpr uint64_t kMostTensors = 10'000'000;
constexpr size_t kMostDimensions = 8;
/// Elements of all metadata arrays of a GGUF file: three times what the largest vocabularies need, and small
/// enough that the header as JSON stays bounded (a byte of the file becomes up to 4 of text).
constexpr uint64_t kMostElements = 4'000'000;

struct TensorHeader {
  virtual ~TensorHeader() = default;
  /// Writes the value of "version" and the object "metadata".
  virtual void WriteVersion(JsonWriter* out) const = 0;
  virtual void WriteMetadata(JsonWriter* out) const = 0;
  virtual std::optional<std::string> MetadataString(std::string_view key) const = 0;

  std::vector<TensorInfo> tensors;
};

std::unique_ptr<TensorHeader> ReadSafetensorsHeader(std::shared_ptr<const MappedFile> file);
std::unique_ptr<TensorHeader> ReadGgufHeader(std::shared_ptr<const MappedFile> file);

/// Sizes of a tensor from its type and shape; false when they do not fit into 63 bits (for any subset of
/// dimensions) or when the row length is not a whole number of blocks.
bool TensorBytes(DType dtype, const std::vector<int64_t>& shape, uint64_t* bytes);
/// What a file that has the wrong first bytes seems to be ("a zip archive…"), for messages; throws
/// FILE_UNSAFE for pickles.
std::string DescribeStart(const MappedFile& file);

/// Sorts `tensors` by offset and checks that they tile [start, end) of the file without hole or overlap,
/// where every tensor starts at a multiple of `alignment` counted from `start`, and less than `alignment`
/// bytes follow the last. Throws FILE_FORMAT, or FILE_TRUNCATED when the tensors need more than the file has.
void SortAndCheckTiling(const MappedFile& file, uint64_t start, uint64_t alignment,
                        std::vector<TensorInfo>* tensors);

}  // namespace selfedit
