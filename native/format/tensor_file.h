// One view of safetensors and GGUF files: named tensors in a mapping. Every size, count and offset is checked
// before it is used; a TensorFile that exists is sound, so its users need no checks of their own.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace selfedit {

class MappedFile;
struct TensorHeader;

enum class DType {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

/// "F32", "BF16", "BOOL", "Q4_1" …: the names that safetensors and GGML use.
const char* DTypeName(DType dtype);
/// Elements of one block (1 for the plain types, 32 for Q4_0 … Q8_0, 256 for Q2_K … Q6_K) and bytes of one
/// block.
int64_t DTypeBlockElements(DType dtype);
int64_t DTypeBlockBytes(DType dtype);

/// "[2, 3]", for messages.
std::string ShapeText(const std::vector<int64_t>& shape);

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  /// Row-major, outermost first, also for GGUF (which stores the opposite order). Empty for a scalar.
  std::vector<int64_t> shape;
  /// From the start of the file.
  uint64_t offset = 0;
  uint64_t bytes = 0;

  /// Product of the shape.
  int64_t Elements() const;
  /// Innermost dimension (1 for a scalar), and product of the others. Rows are contiguous.
  int64_t RowLength() const { return shape.empty() ? 1 : shape.back(); }
  int64_t Rows() const;
  uint64_t RowBytes() const;
};

enum class Format { kDetect, kSafetensors, kGguf };

/// Immutable; holds the mapping. All members may be called from any thread.
class TensorFile {
 public:
  /// Errors: FILE_NOT_FOUND, FILE_UNSAFE, FILE_TRUNCATED, FILE_FORMAT, IO.
  static std::shared_ptr<const TensorFile> Open(const std::string& path, Format format = Format::kDetect);
  static std::shared_ptr<const TensorFile> Open(std::shared_ptr<const MappedFile> file,
                                                Format format = Format::kDetect);
  ~TensorFile();

  const std::string& path() const;
  Format format() const { return format_; }
  /// In the order of their offsets.
  const std::vector<TensorInfo>& tensors() const;
  /// Null when there is no tensor of that name.
  const TensorInfo* Find(std::string_view name) const;
  /// First byte of a tensor of this file. May be unaligned: read it through memcpy or Dequantize.
  const uint8_t* Data(const TensorInfo& tensor) const;
  /// Hint: these bytes of the tensor, [begin, end), are about to be read.
  void Prefetch(const TensorInfo& tensor, uint64_t begin, uint64_t end) const;
  /// Hint: the tensor will not be read again soon, so its pages need not count as this process's memory.
  void Forget(const TensorInfo& tensor) const;
  /// The same of the bytes [begin, end) of the tensor.
  void Forget(const TensorInfo& tensor, uint64_t begin, uint64_t end) const;
  /// A metadata entry of type string (safetensors `__metadata__`, GGUF key–value).
  std::optional<std::string> MetadataString(std::string_view key) const;
  /// {"format":"gguf","version":3,"metadata":{…},"tensors":[{"name","dtype","shape","offset","bytes"}]}.
  /// `version` is null for safetensors, which has none. Bytes of GGUF strings that are not UTF-8 become
  /// U+FFFD; float32 metadata is written with the fewest digits that read back to the same float32, NaN and
  /// infinity as null.
  std::string HeaderJson() const;

 private:
  TensorFile(std::shared_ptr<const MappedFile> file, Format format, std::unique_ptr<TensorHeader> header);

  std::shared_ptr<const MappedFile> file_;
  Format format_;
  std::unique_ptr<TensorHeader> header_;
  std::vector<uint32_t> by_name_;  // indices of tensors(), sorted by name
};

/// Rows [first_row, first_row + rows) of a tensor as float32, row-major. `data` is the tensor's first byte,
/// `out` has room for rows · RowLength() values. No threads of its own: callers split the rows. Bit-exact for
/// every type that float32 holds; F64 and I64 and I32 round to nearest. Throws INTERNAL when the range is
/// outside the tensor.
void Dequantize(const TensorInfo& tensor, const uint8_t* data, int64_t first_row, int64_t rows, float* out);

}  // namespace selfedit
