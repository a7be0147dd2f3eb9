#include "core/delta_file.h"

#include <algorithm>
#include <set>

#include "core/model.h"
#include "core/stored.h"
#include "format/json.h"
#include "format/safetensors_writer.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

constexpr char kFormat[] = "selfedit-delta-1";
constexpr char kScales[] = "scales";
constexpr DeltaKind kKinds[] = {DeltaKind::kLowRank, DeltaKind::kSparse, DeltaKind::kDense,
                                DeltaKind::kSpectral};

// The tensors of a part by the names that a file gives them; `part` may be const.
template <typename Part>
auto FieldsOf(Part& part) {
  using Field = std::pair<const char*, decltype(&part.values)>;
  switch (part.kind) {
    case DeltaKind::kLowRank:
      return std::vector<Field>{{"a", &part.a}, {"b", &part.b}};
    case DeltaKind::kSparse:
      return std::vector<Field>{
          {"row_offsets", &part.row_offsets}, {"columns", &part.columns}, {"values", &part.values}};
    case DeltaKind::kDense:
      return std::vector<Field>{{"values", &part.values}};
    default:
      return std::vector<Field>{
          {"u", &part.b}, {"sigma", &part.sigma}, {"v", &part.a}, {"values", &part.values}};
  }
}

std::string KeyOf(const MatrixInfo& info, DeltaKind kind, const char* field) {
  return info.name + "." + DeltaKindName(kind) + "." + field;
}

// Tensors of one file; remembers which have been asked for.
class Reader {
 public:
  Reader(const Model& model, const std::string& path)
      : file_(TensorFile::Open(path, Format::kSafetensors)), path_(path), options_(model.options()) {}

  const std::string& path() const { return path_; }
  const TensorFile& file() const { return *file_; }

  // Undefined when there is none of that name.
  const TensorInfo* Find(const std::string& key) {
    const TensorInfo* info = file_->Find(key);
    if (info != nullptr) used_.insert(key);
    return info;
  }

  // In the model's type.
  at::Tensor Real(const TensorInfo& info) const { return RealValues(*file_, info, options_); }

  // As it is stored.
  at::Tensor Exactly(const TensorInfo& info, DType dtype, at::ScalarType type) const {
    if (info.dtype != dtype) Wrong(info, DTypeName(dtype));
    at::Tensor out = at::empty(info.shape, type);
    std::copy_n(file_->Data(info), info.bytes, static_cast<uint8_t*>(out.mutable_data_ptr()));
    return out;
  }

  [[noreturn]] void Wrong(const TensorInfo& info, const std::string& expected) const {
    throw Error("FILE_FORMAT",
                Naming(*file_, info) + " is of type " + DTypeName(info.dtype) + "; expected " + expected);
  }

  void RefuseTheRest() const {
    RefuseUnused(*file_, [this](const std::string& name) { return used_.count(name) > 0; });
  }

 private:
  std::shared_ptr<const TensorFile> file_;
  std::string path_;
  at::TensorOptions options_;
  std::set<std::string> used_;
};

void ReadParts(Reader* reader, const Model& model, Delta* delta) {
  for (size_t id = 0; id < model.tensors().size(); ++id) {
    const MatrixInfo& matrix = model.tensors()[id];
    for (const DeltaKind kind : kKinds) {
      DeltaPart part;
      part.kind = kind;
      part.matrix = static_cast<int64_t>(id);
      std::string missing;
      size_t found = 0;
      const auto fields = FieldsOf(part);
      for (const auto& [field, tensor] : fields) {
        const std::string key = KeyOf(matrix, kind, field);
        const TensorInfo* info = reader->Find(key);
        if (info == nullptr) {
          missing = key;
          continue;
        }
        ++found;
        if (tensor == &part.row_offsets || tensor == &part.columns) {
          *tensor = reader->Exactly(*info, DType::kI32, at::kInt);
        } else {
          if (info->dtype != DType::kF32 && info->dtype != DType::kF64) reader->Wrong(*info, "F32 or F64");
          *tensor = reader->Real(*info);
        }
      }
      if (found == 0) continue;
      if (found < fields.size())
        throw Error("TENSOR_MISSING", reader->path() + ": \"" + missing + "\" is missing beside its twins");
      delta->parts.push_back(std::move(part));
    }
  }
  const TensorInfo* info = reader->Find(kScales);
  if (info == nullptr) throw Error("TENSOR_MISSING", reader->path() + ": \"scales\" is missing");
  const at::Tensor scales = reader->Exactly(*info, DType::kF64, at::kDouble);
  if (scales.dim() != 1 || scales.size(0) != static_cast<int64_t>(delta->parts.size())) {
    throw Error("FILE_FORMAT", reader->path() + ": \"scales\" has " + std::to_string(scales.numel()) +
                                   " entries; expected one for each of the " +
                                   std::to_string(delta->parts.size()) + " parts");
  }
  for (size_t i = 0; i < delta->parts.size(); ++i) delta->parts[i].scale = scales.const_data_ptr<double>()[i];
}

}  // namespace

void SaveDelta(const Delta& delta, const Model& model, const std::string& path) {
  const DType dtype = model.activation() == at::kDouble ? DType::kF64 : DType::kF32;
  std::vector<TensorToWrite> tensors;
  std::vector<double> scales;
  for (const DeltaPart& part : delta.parts) {
    const MatrixInfo& info = model.tensors().at(part.matrix);
    scales.push_back(part.scale);
    for (const auto& [field, tensor] : FieldsOf(part)) {
      tensors.push_back({KeyOf(info, part.kind, field),
                         tensor->scalar_type() == at::kInt ? DType::kI32 : dtype, tensor->sizes().vec(),
                         tensor->const_data_ptr()});
    }
  }
  tensors.push_back({kScales, DType::kF64, {static_cast<int64_t>(scales.size())}, scales.data()});
  WriteSafetensors(path, tensors, {{"format", kFormat}});
}

void CheckRead(const Delta& delta, const Model& model, const std::string& path) {
  try {
    delta.Check(model);
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
}

DeltaPtr LoadDelta(const Model& model, const std::string& path) {
  Reader reader(model, path);
  auto delta = std::make_shared<Delta>();
  const std::string format = reader.file().MetadataString("format").value_or("");
  if (format != kFormat) {
    throw Error("FILE_FORMAT", path + ": metadata \"format\" is " + QuoteForMessage(format) +
                                   "; expected \"" + kFormat + "\"");
  }
  ReadParts(&reader, model, delta.get());
  reader.RefuseTheRest();
  CheckRead(*delta, model, path);
  return delta;
}

}  // namespace selfedit
