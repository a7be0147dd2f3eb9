// Any element type to float32.
#include "format/dequantize.h"

#include "format/error.h"
#include "format/json.h"

namespace selfedit {
namespace {

inline float FromBFloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

template <typename T, typename Convert>
void Plain(const uint8_t* __restrict from, int64_t count, float* __restrict out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) out[i] = convert(Load<T>(from + i * static_cast<int64_t>(sizeof(T))));
}

}  // namespace

void Dequantize(const TensorInfo& tensor, const uint8_t* data, int64_t first_row, int64_t rows, float* out) {
  const int64_t all = tensor.Rows();
  if (first_row < 0 || rows < 0 || first_row > all || rows > all - first_row) {
    throw Error("INTERNAL", "Dequantize: rows " + std::to_string(first_row) + " + " + std::to_string(rows) +
                                " of tensor " + QuoteForMessage(tensor.name) + ", which has " +
                                std::to_string(all));
  }
  const int64_t count = rows * tensor.RowLength();
  if (count == 0) return;
  const uint8_t* from = data + static_cast<uint64_t>(first_row) * tensor.RowBytes();
  const auto cast = [](auto value) { return static_cast<float>(value); };
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF64:
      return Plain<double>(from, count, out, cast);
    case DType::kF16:
      return Plain<uint16_t>(from, count, out, FromHalf);
    case DType::kBF16:
      return Plain<uint16_t>(from, count, out, FromBFloat16);
    case DType::kI64:
      return Plain<int64_t>(from, count, out, cast);
    case DType::kI32:
      return Plain<int32_t>(from, count, out, cast);
    case DType::kI16:
      return Plain<int16_t>(from, count, out, cast);
    case DType::kI8:
      return Plain<int8_t>(from, count, out, cast);
    case DType::kU8:
      return Plain<uint8_t>(from, count, out, cast);
    case DType::kBool:
      return Plain<uint8_t>(from, count, out, [](uint8_t v) { return v != 0 ? 1.0f : 0.0f; });
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
      return DequantizeBlocks(tensor.dtype, from, count, out);
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return DequantizeSuperBlocks(tensor.dtype, from, count, out);
  }
  throw Error("INTERNAL", "Dequantize: unknown element type");
}

}  // namespace selfedit
