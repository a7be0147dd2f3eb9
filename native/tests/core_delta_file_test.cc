// Deltas in files of their own layout: round trips of every kind, and files that must be refused.
#include <cstring>
#include <limits>

#include "core/delta_file.h"
#include "core_delta_helpers.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using delta_test::Draw;
using delta_test::ExpectCode;
using delta_test::MixedDelta;
using delta_test::RandomPart;
using delta_test::TinyModel;
using format_test::TemporaryFolder;

constexpr char kQ[] = "model.layers.0.self_attn.q_proj";

TEST(DeltaFile, EveryKindComesBackBitForBit) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
    const auto model = TinyModel(dtype);
    DeltaPtr delta = MixedDelta(*model, 1);
    // Values that a conversion would change.
    for (size_t i = 0; i < delta->parts.size(); ++i) {
      for (const at::Tensor& t : delta->parts[i].trainable()) {
        t.view({-1})[0].fill_(-0.0);
        t.view({-1})[1].fill_(dtype == Dtype::kFloat64 ? 4.9e-324 : 1.4e-45);
      }
    }
    const std::string path = folder / "delta.safetensors";
    SaveDelta(*delta, *model, path);
    const DeltaPtr loaded = LoadDelta(*model, path);
    ASSERT_EQ(loaded->parts.size(), delta->parts.size());
    for (size_t i = 0; i < delta->parts.size(); ++i) {
      EXPECT_TRUE(delta_test::SameBits(loaded->parts[i], delta->parts[i])) << i;
    }
    const std::string bytes = format_test::ReadFile(path);
    SaveDelta(*loaded, *model, path);
    EXPECT_EQ(format_test::ReadFile(path), bytes);
  }
}

TEST(DeltaFile, FieldsAreNamedByWeightAndKind) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPtr delta = delta_test::DeltaOf(
      *model, {RandomPart(*model, DeltaKind::kLowRank, model->ids().embedding, 2, 3, 0.125)});
  SaveDelta(*delta, *model, folder / "d.safetensors");
  const auto file = TensorFile::Open(folder / "d.safetensors");
  EXPECT_EQ(file->MetadataString("format"), "selfedit-delta-1");
  EXPECT_NE(file->Find("model.embed_tokens.lowRank.a"), nullptr);
  const DeltaPtr loaded = LoadDelta(*model, folder / "d.safetensors");
  EXPECT_TRUE(delta_test::SameBits(loaded->parts.at(0), delta->parts[0]));
}

TEST(DeltaFile, EmptyPatternsAndEmptyDeltas) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPtr nothing =
      delta_test::DeltaOf(*model, {DeltaPart::Sparse(0, at::zeros({17}, at::kInt), at::empty({0}, at::kInt),
                                                     at::empty({0}, at::kFloat), 1)});
  SaveDelta(*nothing, *model, folder / "d.safetensors");
  EXPECT_TRUE(
      delta_test::SameBits(LoadDelta(*model, folder / "d.safetensors")->parts.at(0), nothing->parts[0]));
  SaveDelta(Delta(), *model, folder / "e.safetensors");
  EXPECT_TRUE(LoadDelta(*model, folder / "e.safetensors")->parts.empty());
}

TEST(DeltaFile, AFloat64FileIsRoundedForAFloat32Model) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto wide = TinyModel(Dtype::kFloat64), narrow = TinyModel(Dtype::kFloat32);
  for (const DeltaKind kind : {DeltaKind::kLowRank, DeltaKind::kSparse, DeltaKind::kDense}) {
    const DeltaPart part = RandomPart(*wide, kind, 0, 2, 3, 0.5);
    SaveDelta(*delta_test::DeltaOf(*wide, {part}), *wide, folder / "d.safetensors");
    const DeltaPtr loaded = LoadDelta(*narrow, folder / "d.safetensors");
    for (size_t i = 0; i < part.trainable().size(); ++i) {
      EXPECT_TRUE(
          delta_test::SameBits(loaded->parts.at(0).trainable()[i], part.trainable()[i].to(at::kFloat)));
    }
  }
}

// One file of the own layout that is right, changed in one place.
class BadDeltaFile : public testing::Test {
 protected:
  BadDeltaFile() : model_(TinyModel(Dtype::kFloat32)) {
    offsets_[1] = offsets_[2] = 2;
    for (int i = 3; i <= 16; ++i) offsets_[i] = 4;
  }

  void Expect(const std::string& code, const std::string& mentions) {
    const std::string path = folder_ / "bad.safetensors", q = std::string(kQ) + ".sparse.";
    std::vector<TensorToWrite> tensors;
    const auto add = [&](const std::string& name, DType dtype, std::vector<int64_t> shape, const void* data) {
      if (name != without_) tensors.push_back({name, dtype, std::move(shape), data});
    };
    add(q + "row_offsets", offsets_type_, {17}, offsets_);
    add(q + "columns", DType::kI32, {4}, columns_);
    add(q + "values", values_type_, {values_}, data_);
    add("scales", scales_type_, {scales_}, scale_);
    if (!extra_.empty()) add(extra_, DType::kF32, {1}, data_);
    WriteSafetensors(path, tensors, {{"format", format_}});
    if (code.empty()) {
      EXPECT_NO_THROW(LoadDelta(*model_, path));
    } else {
      ExpectCode(code, mentions, [&] { LoadDelta(*model_, path); });
    }
  }

  std::shared_ptr<Model> model_;
  TemporaryFolder folder_;
  int32_t offsets_[40] = {};
  int32_t columns_[4] = {1, 5, 0, 11};
  float data_[16] = {1, 2, 3, 4};
  double scale_[2] = {1, 1};
  DType offsets_type_ = DType::kI32, values_type_ = DType::kF32, scales_type_ = DType::kF64;
  int64_t values_ = 4, scales_ = 1;
  std::string without_, extra_, format_ = "selfedit-delta-1";
};

TEST_F(BadDeltaFile, TheFileItselfIsRight) { Expect("", ""); }
TEST_F(BadDeltaFile, AMissingField) {
  without_ = std::string(kQ) + ".sparse.columns";
  Expect("TENSOR_MISSING", "q_proj.sparse.columns");
}
TEST_F(BadDeltaFile, MissingScales) {
  without_ = "scales";
  Expect("TENSOR_MISSING", "scales");
}
TEST_F(BadDeltaFile, AnUnknownKey) {
  extra_ = "model.layers.7.self_attn.q_proj.dense.values";
  Expect("TENSOR_UNEXPECTED", "model.layers.7");
}
TEST_F(BadDeltaFile, AFieldOfAnotherKind) {
  extra_ = std::string(kQ) + ".sparse.sigma";
  Expect("TENSOR_UNEXPECTED", "sparse.sigma");
}
TEST_F(BadDeltaFile, KeysOfPeft) {
  extra_ = std::string("base_model.model.") + kQ + ".lora_A.weight";
  Expect("TENSOR_UNEXPECTED", "lora_A");
}
TEST_F(BadDeltaFile, TheLayoutWithoutItsName) {
  format_ = "pt";
  Expect("FILE_FORMAT", "\"pt\"; expected \"selfedit-delta-1\"");
}
TEST_F(BadDeltaFile, ALaterLayout) {
  format_ = "selfedit-delta-2";
  Expect("FILE_FORMAT", "selfedit-delta-2");
}
TEST_F(BadDeltaFile, IndicesThatAreNotInt32) {
  offsets_type_ = DType::kF32;
  Expect("FILE_FORMAT", "F32; expected I32");
}
TEST_F(BadDeltaFile, ValuesThatAreNotReal) {
  values_type_ = DType::kI32;
  Expect("FILE_FORMAT", "I32; expected F32 or F64");
}
TEST_F(BadDeltaFile, ScalesThatAreNotFloat64) {
  scales_type_ = DType::kF32;
  Expect("FILE_FORMAT", "F32; expected F64");
}
TEST_F(BadDeltaFile, AScaleTooMany) {
  scales_ = 2;
  Expect("FILE_FORMAT", "2 entries; expected one for each of the 1 parts");
}
TEST_F(BadDeltaFile, AValueTooMany) {
  values_ = 5;
  Expect("DELTA_SHAPE", "q_proj");
}
TEST_F(BadDeltaFile, UnsortedColumns) {
  std::swap(columns_[0], columns_[1]);
  Expect("DELTA_INVALID", "ascending");
}
TEST_F(BadDeltaFile, AColumnThatIsNotThere) {
  columns_[3] = 12;
  Expect("DELTA_INVALID", "column 12");
}
TEST_F(BadDeltaFile, FallingOffsets) {
  offsets_[2] = 1;
  Expect("DELTA_INVALID", "fall");
}
TEST_F(BadDeltaFile, OffsetsBeyondTheValues) {
  offsets_[5] = 1 << 30;
  Expect("DELTA_INVALID", "offsets");
}
TEST_F(BadDeltaFile, ANanAmongTheValues) {
  data_[2] = std::numeric_limits<float>::quiet_NaN();
  Expect("DELTA_INVALID", "NaN");
}
TEST_F(BadDeltaFile, AnInfiniteScale) {
  scale_[0] = std::numeric_limits<double>::infinity();
  Expect("DELTA_INVALID", "scale");
}

}  // namespace
}  // namespace selfedit
