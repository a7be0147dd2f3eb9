#include "core/merge.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "core/model.h"
#include "core/stored.h"
#include "format/json.h"
#include "format/safetensors_writer.h"

namespace selfedit {
namespace {

constexpr int64_t kCopyBytes = 16 << 20;  // of one step over a tensor that stays as it is

// float64 to float32 such that rounding on to fewer bits gives what rounding at once would: inexact values
// become the neighbour with an odd last bit (S. Boldo and G. Melquiond, 2008).
float RoundToOdd(double value) {
  float result = static_cast<float>(value);
  if (static_cast<double>(result) == value || !std::isfinite(result)) return result;
  if (std::abs(static_cast<double>(result)) > std::abs(value)) result = std::nextafter(result, 0.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(result) | 1u);
}

// Values of one step in the type of the file.
template <typename T, typename Round>
std::vector<uint8_t> Rounded(const double* values, int64_t count, bool* finite, Round round) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count) * sizeof(T));
  std::atomic<bool> good{true};
  at::parallel_for(0, count, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T value = round(values[i]);
      if (!std::isfinite(static_cast<double>(value))) good = false;
      std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
    }
  });
  *finite = good;
  return bytes;
}

std::vector<uint8_t> RoundTo(DType dtype, const at::Tensor& rows, const std::string& name) {
  const double* values = rows.const_data_ptr<double>();
  const int64_t count = rows.numel();
  bool finite = true;
  std::vector<uint8_t> bytes;
  switch (dtype) {
    case DType::kF64:
      bytes = Rounded<double>(values, count, &finite, [](double v) { return v; });
      break;
    case DType::kF32:
      bytes = Rounded<float>(values, count, &finite, [](double v) { return static_cast<float>(v); });
      break;
    case DType::kF16:
      bytes = Rounded<c10::Half>(values, count, &finite, [](double v) { return c10::Half(RoundToOdd(v)); });
      break;
    case DType::kBF16:
      bytes = Rounded<c10::BFloat16>(values, count, &finite,
                                     [](double v) { return c10::BFloat16(RoundToOdd(v)); });
      break;
    default:
      throw Error("OPTION_INVALID", "tensor \"" + name + "\" cannot be written as " + DTypeName(dtype) +
                                        "; expected F32, F16, BF16 or F64");
  }
  if (!finite) {
    throw Error("WEIGHT_NOT_FINITE", "merged tensor \"" + name + "\" holds values that " + DTypeName(dtype) +
                                         " cannot hold" +
                                         (dtype == DType::kF16 ? "; write it as F32 or BF16" : ""));
  }
  return bytes;
}

class Merger {
 public:
  Merger(const MergeSpec& spec, const JobControl& control) : spec_(spec), control_(control) {
    for (const std::string& path : spec.files) {
      const auto file = TensorFile::Open(path, Format::kSafetensors);
      for (const TensorInfo& info : file->tensors()) sources_.insert({info.name, {file, &info}});
    }
    for (const AppliedDelta& applied : spec.fork.stack) {
      for (const DeltaPart& part : applied.delta->parts) touched_.insert(part.matrix);
    }
    for (const MergedShard& shard : spec.shards) {
      for (const MergedTensor& tensor : shard.tensors) total_ += static_cast<double>(BytesOf(tensor));
    }
  }

  void Write(const MergedShard& shard) {
    std::vector<TensorToWrite> list;
    for (const MergedTensor& tensor : shard.tensors) {
      Check(tensor);
      list.push_back({tensor.name, tensor.dtype, tensor.shape, nullptr,
                      [this, &tensor](const ByteSink& sink) { Produce(tensor, sink); }});
    }
    WriteSafetensors(shard.path, list, {{"format", "pt"}});
  }

 private:
  const Model& model() const { return *spec_.fork.model; }

  static uint64_t BytesOf(const MergedTensor& tensor) {
    int64_t count = DTypeBlockBytes(tensor.dtype);
    for (const int64_t size : tensor.shape) count *= size;
    return static_cast<uint64_t>(count);
  }

  const StoredTensor& Source(const MergedTensor& tensor) const {
    const auto found = sources_.find(tensor.stored);
    if (found != sources_.end()) return found->second;
    throw Error("TENSOR_MISSING", (spec_.files.empty() ? "the base" : spec_.files[0]) + ": tensor " +
                                      QuoteForMessage(tensor.stored) + " is not there any more");
  }

  // The tensor is where and what it was, and the weights' rows are its rows.
  void Check(const MergedTensor& tensor) const {
    if (!tensor.stored.empty() && Source(tensor).info->shape != tensor.shape) {
      const StoredTensor& source = Source(tensor);
      throw Error("TENSOR_SHAPE", Naming(*source.file, *source.info) + " is " +
                                      ShapeText(source.info->shape) + "; it was " + ShapeText(tensor.shape) +
                                      " when the model was loaded");
    }
    if (tensor.weights.empty() && !tensor.stored.empty()) return;
    const int64_t width = tensor.shape.empty() ? 1 : tensor.shape.back();
    int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    bool fits = tensor.shape.size() <= 2 && !tensor.weights.empty();
    for (const int64_t id : tensor.weights) {
      const MatrixInfo& info = model().tensors().at(id);
      fits &= info.in == width;
      rows -= info.out;
    }
    if (!fits || rows != 0)
      throw Error("TENSOR_SHAPE", "tensor \"" + tensor.name + "\" does not consist of its weights");
  }

  void Produce(const MergedTensor& tensor, const ByteSink& sink) {
    const bool changed = std::any_of(tensor.weights.begin(), tensor.weights.end(),
                                     [&](int64_t id) { return touched_.count(id) > 0; });
    if (!tensor.stored.empty() && !changed && Source(tensor).info->dtype == tensor.dtype) {
      Copy(Source(tensor), sink);
    } else if (tensor.weights.empty()) {
      const StoredTensor& source = Source(tensor);
      CheckReal(*source.file, *source.info);
      Convert(tensor, -1, 0, source.info->Rows(), source.info->RowLength(), sink);
    } else {
      int64_t row = 0;
      for (const int64_t id : tensor.weights) {
        const MatrixInfo& info = model().tensors()[id];
        Convert(tensor, id, row, info.out, info.in, sink);
        row += info.out;
      }
    }
    if (!tensor.stored.empty()) Source(tensor).file->Forget(*Source(tensor).info);
  }

  void Copy(const StoredTensor& source, const ByteSink& sink) {
    const uint8_t* data = source.file->Data(*source.info);
    const auto bytes = static_cast<int64_t>(source.info->bytes);
    for (int64_t at = 0; at < bytes; at += kCopyBytes) {
      const int64_t count = std::min(kCopyBytes, bytes - at);
      source.file->Prefetch(*source.info, at, at + count);
      sink(data + at, static_cast<size_t>(count));
      source.file->Forget(*source.info, at, at + count);
      Advance(count);
    }
  }

  // Rows [first, first + rows) of the tensor: all of weight `id` (or of no weight: -1), with its changes.
  void Convert(const MergedTensor& tensor, int64_t id, int64_t first, int64_t rows, int64_t width,
               const ByteSink& sink) {
    const at::Tensor base = tensor.stored.empty() ? model().Weight(id) : at::Tensor();
    for (const auto& [begin, count] : RowBlocks(rows, width)) {
      at::Tensor block =
          base.defined() ? base.narrow(0, begin, count).to(at::kDouble, /*non_blocking=*/false, /*copy=*/true)
                         : Stored(Source(tensor), first + begin, count, width);
      if (base.defined() && tensor.offset != 0) block.add_(tensor.offset);
      if (id >= 0) spec_.fork.AddChanges(id, begin, block);
      const std::vector<uint8_t> bytes = RoundTo(tensor.dtype, block, tensor.name);
      sink(bytes.data(), bytes.size());
      Advance(static_cast<int64_t>(bytes.size()));
    }
  }

  // Rows of `width` values of a stored tensor in float64, which holds all of them exactly.
  static at::Tensor Stored(const StoredTensor& source, int64_t first, int64_t rows, int64_t width) {
    const TensorInfo& info = *source.info;
    const uint8_t* data = source.file->Data(info);
    at::Tensor wide = at::empty({rows, width}, at::kDouble);
    if (info.dtype == DType::kF64) {
      std::memcpy(wide.mutable_data_ptr(), data + first * width * 8, static_cast<size_t>(rows * width * 8));
      return wide;
    }
    at::Tensor narrow = at::empty({rows, width}, at::kFloat);
    Dequantize(info, data, first, rows, narrow.mutable_data_ptr<float>());
    return wide.copy_(narrow);
  }

  void Advance(int64_t bytes) {
    control_.Check();
    done_ += static_cast<double>(bytes);
    control_.Report({done_, total_, 0, NAN});
  }

  const MergeSpec& spec_;
  const JobControl& control_;
  std::map<std::string, StoredTensor> sources_;
  std::set<int64_t> touched_;
  double done_ = 0, total_ = 0;
};

}  // namespace

void WriteMerged(const MergeSpec& spec, const JobControl& control) {
  Merger merger(spec, control);
  for (const MergedShard& shard : spec.shards) merger.Write(shard);
}

}  // namespace selfedit
