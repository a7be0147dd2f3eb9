// What is done to any bytes: opening them either throws Error, or gives a file that can be used in full.
// Shared by the fuzz targets and by the seeded damage of format_fuzz_test.cc.
#pragma once
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "format/error.h"
#include "format/json.h"
#include "format/mapped_file.h"
#include "format/tensor_file.h"

namespace selfedit::fuzz {

inline void Require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

/// Header as JSON, lookup by name, first and last row of every tensor. What fails here is a bug of the
/// reader: whatever it lets through has to be sound.
inline void UseAll(const TensorFile& file) {
  ParseJson(file.HeaderJson(), "HeaderJson");
  file.MetadataString("general.architecture");
  std::vector<float> out;
  for (const TensorInfo& tensor : file.tensors()) {
    Require(file.Find(tensor.name) == &tensor, "Find gives another tensor");
    if (tensor.Elements() == 0) continue;
    Require(static_cast<uint64_t>(tensor.Rows()) * tensor.RowBytes() == tensor.bytes,
            "rows are not the whole");
    out.resize(static_cast<size_t>(tensor.RowLength()));
    for (const int64_t row : {int64_t{0}, tensor.Rows() - 1}) {
      Dequantize(tensor, file.Data(tensor), row, 1, out.data());
    }
  }
}

/// True when the bytes were a sound file. Throws what is no Error of opening: a finding.
inline bool UseAsFile(const std::vector<uint8_t>& bytes, Format format) {
  std::shared_ptr<const TensorFile> file;
  try {
    file = TensorFile::Open(MappedFile::FromBytes("fuzz.file", bytes), format);
  } catch (const Error& error) {
    const std::string message = error.what();
    Require(message.rfind("fuzz.file: ", 0) == 0, "a message that does not name the file: " + message);
    Require(message.size() < 2000 && IsValidUtf8(message), "a message that is too long or not UTF-8");
    return false;
  }
  UseAll(*file);
  return true;
}

}  // namespace selfedit::fuzz
