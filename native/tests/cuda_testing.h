// Helpers of the CUDA kernels' tests. The same tests run against the slow twins (host memory; what every
// build links), and with SELFEDIT_CUDA against the kernels on a GPU; there they skip where no GPU is.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels/kernels.h"
#include "cuda/twins/host.h"

#if defined(SELFEDIT_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace selfedit::cuda::testing {

inline bool HaveDevice() {
#if defined(SELFEDIT_CUDA)
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
#else
  return true;
#endif
}

// Bytes where the kernels can reach them.
class DeviceBuffer {
 public:
  DeviceBuffer(const void* from, size_t bytes) : bytes_(bytes) {
#if defined(SELFEDIT_CUDA)
    EXPECT_EQ(cudaMalloc(&data_, std::max<size_t>(bytes, 16)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
#else
    data_ = ::operator new(std::max<size_t>(bytes, 16), std::align_val_t{16});
    if (bytes > 0) std::memcpy(data_, from, bytes);
#endif
  }
  ~DeviceBuffer() {
#if defined(SELFEDIT_CUDA)
    cudaFree(data_);
#else
    ::operator delete(data_, std::align_val_t{16});
#endif
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void* data() const { return data_; }
  void Read(void* to) const {
    if (bytes_ == 0) return;
#if defined(SELFEDIT_CUDA)
    EXPECT_EQ(cudaMemcpy(to, data_, bytes_, cudaMemcpyDeviceToHost), cudaSuccess);
#else
    std::memcpy(to, data_, bytes_);
#endif
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// A plain array on the device.
template <typename T>
class Array {
 public:
  Array(const std::vector<T>& values) : count_(values.size()), buffer_(values.data(), count_ * sizeof(T)) {}
  Array(std::initializer_list<T> values) : Array(std::vector<T>(values)) {}
  Array(size_t count, T value) : Array(std::vector<T>(count, value)) {}
  T* data() const { return static_cast<T*>(buffer_.data()); }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    buffer_.Read(values.data());
    return values;
  }

 private:
  size_t count_;
  DeviceBuffer buffer_;
};

// Values of a run-time type; what the reference sees are the rounded ones.
class Tensor {
 public:
  Tensor(Type type, const std::vector<double>& values)
      : type_(type), count_(static_cast<int64_t>(values.size())), buffer_(Bytes(type, values)) {}
  void* data() const { return buffer_.data(); }
  const void* At(int64_t i) const { return static_cast<const char*>(data()) + i * TypeSize(type_); }
  std::vector<double> Read() const {
    const std::vector<char> bytes = buffer_.Read();
    std::vector<double> values(count_);
    for (int64_t i = 0; i < count_; ++i) values[i] = host::Load(type_, bytes.data(), i);
    return values;
  }
  bool SameBits(const Tensor& other) const { return buffer_.Read() == other.buffer_.Read(); }

 private:
  static std::vector<char> Bytes(Type type, const std::vector<double>& values) {
    std::vector<char> bytes(values.size() * TypeSize(type));
    for (size_t i = 0; i < values.size(); ++i)
      host::Store(type, bytes.data(), static_cast<int64_t>(i), values[i]);
    return bytes;
  }
  Type type_;
  int64_t count_;
  Array<char> buffer_;
};

inline std::vector<double> Normal(int64_t count, uint64_t seed, double deviation = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<double> values(count);
  for (double& value : values) value = normal(engine);
  return values;
}
inline std::vector<float> Floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }
inline std::vector<double> Wide(const std::vector<float>& values) { return {values.begin(), values.end()}; }
inline std::vector<double> Rounded(Type type, const std::vector<double>& values) {
  std::vector<double> rounded;
  for (double value : values) rounded.push_back(host::Round(type, value));
  return rounded;
}

// Largest difference, relative to the largest reference value (at least `floor`); NaN gives infinity.
inline double Difference(const std::vector<double>& values, const std::vector<double>& reference,
                         double floor = 1e-3) {
  if (values.size() != reference.size()) return INFINITY;
  double worst = 0, size = floor;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = std::abs(values[i] - reference[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    size = std::max(size, std::abs(reference[i]));
  }
  return worst / size;
}

// One rounding of the result is half a step: 2^-25, 2^-9, 2^-12. The rest is room for float sums over a few
// hundred terms, and for the rounded factors inside.
inline double Tolerance(Type type) {
  return type == Type::kFloat32 ? 5e-6 : type == Type::kBFloat16 ? 6e-3 : 8e-4;
}
constexpr double kFloatTolerance = 5e-6;

// df/dx[i] by a central difference.
inline double Numeric(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x,
                      int64_t i, double step = 1e-4) {
  x[i] += step;
  const double high = f(x);
  x[i] -= 2 * step;
  return (high - f(x)) / (2 * step);
}

struct SegmentCase {
  std::string name;
  std::vector<int32_t> lengths;
  int64_t leftover = 3;  // rows of the capacity that belong to nobody
  std::vector<int32_t> Offsets() const {
    std::vector<int32_t> offsets{0};
    for (int32_t length : lengths) offsets.push_back(offsets.back() + length);
    return offsets;
  }
  int64_t Tokens() const { return Offsets().back() + leftover; }
  int64_t Slots() const { return static_cast<int64_t>(lengths.size()); }
};
inline std::vector<SegmentCase> SegmentCases() {
  return {{"identical", {70}},         {"distinct", {16, 33, 8, 21}},   {"single tokens", {1, 1, 1, 1, 1, 1}},
          {"skewed", {131, 20, 5, 1}}, {"empty", {0, 17, 0, 0, 66, 0}}, {"nothing", {0, 0}},
          {"full", {30, 34}, 0}};
}

inline const char* NameOf(Type type) {
  return type == Type::kFloat32 ? "float32" : type == Type::kBFloat16 ? "bfloat16" : "float16";
}
constexpr Type kTypes[] = {Type::kFloat32, Type::kBFloat16, Type::kFloat16};

class CudaTest : public ::testing::TestWithParam<Type> {
 protected:
  void SetUp() override {
    if (!HaveDevice()) GTEST_SKIP() << "no GPU";
  }
  void TearDown() override { EXPECT_EQ(TakeError(), nullptr); }
};

}  // namespace selfedit::cuda::testing

#define SELFEDIT_CUDA_TYPES(Suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(Types, Suite, ::testing::ValuesIn(selfedit::cuda::testing::kTypes), \
                           [](const auto& info) { return selfedit::cuda::testing::NameOf(info.param); })
