// Merged models: untouched bytes, the sum rounded once, rows of fused tensors, and stops that leave nothing.
#include <cmath>
#include <cstring>

#include "core/merge.h"
#include "core_delta_helpers.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using delta_test::DeltaOf;
using delta_test::ExpectCode;
using delta_test::MixedDelta;
using delta_test::RandomPart;
using delta_test::TinyModel;
using format_test::TemporaryFolder;

// Nearest value with `bits` bits of mantissa, ties to even: what a type of that precision holds. Steps of
// float16 (11 bits) are never finer than 2^-24.
double Nearest(double value, int bits) {
  if (value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const double unit = std::ldexp(1.0, bits == 11 ? std::max(exponent - bits, -24) : exponent - bits);
  return std::nearbyint(value / unit) * unit;
}

std::vector<double> ValuesOf(const std::string& path, const std::string& name) {
  const auto file = TensorFile::Open(path);
  const TensorInfo* info = file->Find(name);
  if (info == nullptr) {
    ADD_FAILURE() << name << " is missing";
    return {};
  }
  std::vector<float> values(info->Elements());
  Dequantize(*info, file->Data(*info), 0, info->Rows(), values.data());
  return std::vector<double>(values.begin(), values.end());
}

// All weights as the model has them.
std::vector<MergedTensor> AllOf(const Model& model, DType dtype) {
  std::vector<MergedTensor> tensors;
  for (size_t id = 0; id < model.tensors().size(); ++id) {
    const MatrixInfo& info = model.tensors()[id];
    std::vector<int64_t> shape = {info.out, info.in};
    if (info.vector()) shape = {info.in};
    tensors.push_back({info.name, dtype, shape, "", {static_cast<int64_t>(id)}});
  }
  return tensors;
}

TEST(Merge, EveryKindIsAddedAndRoundedOnce) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const Fork fork{model, {{MixedDelta(*model, 1), 1.0}, {MixedDelta(*model, 2), -0.5}}};
  struct Case {
    DType dtype;
    int bits;
  };
  for (const auto& [dtype, bits] : {Case{DType::kF32, 24}, Case{DType::kBF16, 8}, Case{DType::kF16, 11}}) {
    const std::string path = folder / "m.safetensors";
    WriteMerged({fork, {}, {{path, AllOf(*model, dtype)}}}, {});
    for (size_t id = 0; id < model->tensors().size(); ++id) {
      const MatrixInfo& info = model->tensors()[id];
      at::Tensor expected = model->Weight(id).to(at::kDouble).contiguous().clone();
      for (const AppliedDelta& applied : fork.stack) {
        for (const DeltaPart& part : applied.delta->parts) {
          if (part.matrix == static_cast<int64_t>(id))
            expected += delta_test::Twin(part, info) * applied.scale;
        }
      }
      const std::vector<double> found = ValuesOf(path, info.name);
      ASSERT_EQ(static_cast<int64_t>(found.size()), expected.numel());
      int64_t off = 0;
      for (int64_t i = 0; i < expected.numel(); ++i) {
        off += found[i] != Nearest(expected.view({-1})[i].item<double>(), bits);
      }
      // Sums in another order may fall on the other side of a tie, once in a great many.
      EXPECT_LE(off, dtype == DType::kF32 ? 1 : 0) << info.name << " " << DTypeName(dtype);
      if (dtype == DType::kF32) {
        const at::Tensor effective = fork.EffectiveWeight(id).contiguous();
        EXPECT_EQ(std::memcmp(std::vector<float>(found.begin(), found.end()).data(),
                              effective.const_data_ptr(), effective.nbytes()),
                  0)
            << info.name;
      }
    }
  }
}

// A value between two of bfloat16, a hair above the middle: rounding to float32 first would lose the hair.
TEST(Merge, NothingIsRoundedTwice) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat64);
  const double tie = 1 + std::ldexp(1.0, -8), hair = std::ldexp(1.0, -40);
  const int64_t id = model->ids().final_norm;
  at::Tensor change = at::zeros({1, 12}, at::kDouble);
  change[0][0] = tie + hair - 1;
  change[0][1] = tie - 1;
  change[0][2] = -(tie + hair) - 1;
  const DeltaPtr delta = DeltaOf(*model, {DeltaPart::Dense(id, change, 1)});
  WriteMerged({{model, {{delta, 1.0}}}, {}, {{folder / "m", {{"norm", DType::kBF16, {12}, "", {id}}}}}}, {});
  const std::vector<double> found = ValuesOf(folder / "m", "norm");
  EXPECT_EQ(found[0], 1 + std::ldexp(1.0, -7));
  EXPECT_EQ(found[1], 1.0);  // to even
  EXPECT_EQ(found[2], -1 - std::ldexp(1.0, -7));
  EXPECT_EQ(found[3], 1.0);
}

class StoredBase : public testing::Test {
 protected:
  StoredBase() {
    for (size_t i = 0; i < halves_.size(); ++i) halves_[i] = static_cast<uint16_t>(0x3f00 + 3 * i);
    for (size_t i = 0; i < numbers_.size(); ++i) numbers_[i] = static_cast<int64_t>(i) << 33;
    WriteSafetensors(folder_ / "base", {{"qkv", DType::kBF16, {32, 12}, halves_.data()},
                                        {"o", DType::kBF16, {12, 16}, halves_.data()},
                                        {"buffer", DType::kI64, {3}, numbers_.data()}});
  }

  MergeSpec Spec(const DeltaPtr& delta, std::vector<MergedTensor> tensors) {
    return {{model_, {{delta, 1.0}}}, {folder_ / "base"}, {{folder_ / "out", std::move(tensors)}}};
  }
  std::string Raw(const std::string& file, const std::string& name) {
    const auto open = TensorFile::Open(folder_ / file);
    const TensorInfo* info = open->Find(name);
    return {reinterpret_cast<const char*>(open->Data(*info)), info->bytes};
  }

  std::shared_ptr<Model> model_ = TinyModel(Dtype::kFloat32);
  TemporaryFolder folder_;
  std::vector<uint16_t> halves_ = std::vector<uint16_t>(32 * 12);
  std::vector<int64_t> numbers_ = std::vector<int64_t>(3);
  const MergedTensor qkv_{"qkv", DType::kBF16, {32, 12}, "qkv", {0, 1, 2}};
  const MergedTensor o_{"o", DType::kBF16, {12, 16}, "o", {3}};
  const MergedTensor buffer_{"buffer", DType::kI64, {3}, "buffer", {}};
};

TEST_F(StoredBase, UntouchedTensorsKeepTheirBytesAndFusedRowsTheirPlace) {
  const c10::InferenceMode inference;
  // k alone is changed: rows 16 to 24 of the fused tensor.
  const DeltaPart part = RandomPart(*model_, DeltaKind::kLowRank, 1, 2, 3, 0.5);
  WriteMerged(Spec(DeltaOf(*model_, {part}), {qkv_, o_, buffer_}), {});
  EXPECT_EQ(Raw("out", "o"), Raw("base", "o"));
  EXPECT_EQ(Raw("out", "buffer"), Raw("base", "buffer"));
  const std::vector<double> before = ValuesOf(folder_ / "base", "qkv"),
                            after = ValuesOf(folder_ / "out", "qkv");
  const at::Tensor change = delta_test::Twin(part, model_->tensors()[1]);
  for (int64_t i = 0; i < 32 * 12; ++i) {
    const bool inside = i / 12 >= 16 && i / 12 < 24;
    const double expected = inside ? before[i] + change.view({-1})[i - 16 * 12].item<double>() : before[i];
    EXPECT_EQ(after[i], inside ? Nearest(expected, 8) : expected) << i;
  }
}

TEST_F(StoredBase, WhatDoesNotFitIsRefusedAndLeavesNothing) {
  const c10::InferenceMode inference;
  const auto change = [&](double size) {
    return DeltaOf(*model_, {DeltaPart::Dense(3, at::full({12, 16}, size, at::kFloat), 1)});
  };
  MergedTensor half = o_;
  half.dtype = DType::kF16;
  ExpectCode("WEIGHT_NOT_FINITE", "F16", [&] { WriteMerged(Spec(change(1e5), {half}), {}); });
  MergedTensor gone = o_;
  gone.stored = "nowhere";
  ExpectCode("TENSOR_MISSING", "nowhere", [&] { WriteMerged(Spec(change(1), {gone}), {}); });
  MergedTensor other = o_;
  other.shape = {16, 12};
  ExpectCode("TENSOR_SHAPE", "\"o\"", [&] { WriteMerged(Spec(change(1), {other}), {}); });
  MergedTensor part = qkv_;
  part.weights = {0, 1};
  ExpectCode("TENSOR_SHAPE", "\"qkv\"", [&] { WriteMerged(Spec(change(1), {part}), {}); });
  std::atomic<bool> stop{true};
  JobControl control;
  control.stop = &stop;
  ExpectCode("ABORTED", "", [&] { WriteMerged(Spec(change(1), {o_}), control); });
  EXPECT_EQ(folder_.List(), (std::vector<std::string>{"base"}));
}

TEST_F(StoredBase, OffsetsAreThoseOfTheModelsValuesOnly) {
  const c10::InferenceMode inference;
  const int64_t id = model_->ids().final_norm;
  const DeltaPtr delta = DeltaOf(*model_, {DeltaPart::Dense(id, at::full({1, 12}, 0.25, at::kFloat), 1)});
  WriteMerged(Spec(delta, {{"norm", DType::kF32, {12}, "", {id}, -1}}), {});
  EXPECT_EQ(ValuesOf(folder_ / "out", "norm"), std::vector<double>(12, 0.25));
}

}  // namespace
}  // namespace selfedit
