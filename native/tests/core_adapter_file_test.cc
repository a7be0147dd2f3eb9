// Factors in the files of others: bytes of PEFT's layout, what llama.cpp expects, maps that are fused there,
// and files that must be refused.
#include <cstring>

#include "core/adapter_file.h"
#include "core_delta_helpers.h"
#include "format/gguf_writer.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using delta_test::DeltaOf;
using delta_test::ExpectCode;
using delta_test::RandomPart;
using delta_test::SameBits;
using delta_test::TinyModel;
using format_test::TemporaryFolder;

constexpr char kQ[] = "model.layers.0.self_attn.q_proj";

std::vector<FactorSource> QSource(double scale) {
  const std::string key = std::string("base_model.model.") + kQ + ".lora_";
  return {{0, scale, key + "A.weight", key + "B.weight"}};
}

// Written down from the specification of safetensors and PEFT's names.
TEST(AdapterFile, PeftsLayoutToTheByte) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
    const auto model = TinyModel(dtype);
    const DeltaPart part = RandomPart(*model, DeltaKind::kLowRank, 0, 2, 3, 0.5);
    const std::string path = folder / "adapter.safetensors";
    const auto modules = FactorsByModule(*DeltaOf(*model, {part}), *model, false);
    ASSERT_EQ(modules.size(), 1u);
    EXPECT_EQ(modules[0].module, kQ);
    EXPECT_EQ(modules[0].scale, 0.5);
    WritePeft(modules, path);
    const bool wide = dtype == Dtype::kFloat64;
    const std::string type = wide ? "F64" : "F32", key = std::string("\"base_model.model.") + kQ + ".lora_";
    const int64_t a = 2 * 12 * (wide ? 8 : 4), b = 16 * 2 * (wide ? 8 : 4);
    std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + key + "A.weight\":{\"dtype\":\"" + type +
                         "\",\"shape\":[2,12],\"data_offsets\":[0," + std::to_string(a) + "]}," + key +
                         "B.weight\":{\"dtype\":\"" + type + "\",\"shape\":[16,2],\"data_offsets\":[" +
                         std::to_string(a) + "," + std::to_string(a + b) + "]}}";
    header.append((8 - header.size() % 8) % 8, ' ');
    const uint64_t size = header.size();
    std::string expected(reinterpret_cast<const char*>(&size), 8);
    expected += header;
    expected.append(static_cast<const char*>(part.a.const_data_ptr()), a);
    expected.append(static_cast<const char*>(part.b.const_data_ptr()), b);
    EXPECT_EQ(format_test::ReadFile(path), expected);
    const DeltaPtr loaded = LoadFactors(*model, path, QSource(0.5));
    ASSERT_EQ(loaded->parts.size(), 1u);
    EXPECT_TRUE(SameBits(loaded->parts[0], part));
  }
}

TEST(AdapterFile, EmbeddingsAreTransposedAndComeBack) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const int64_t id = model->ids().embedding;
  const DeltaPart part = RandomPart(*model, DeltaKind::kLowRank, id, 2, 3, 0.125);
  WritePeft(FactorsByModule(*DeltaOf(*model, {part}), *model, false), folder / "e.safetensors");
  const auto file = TensorFile::Open(folder / "e.safetensors");
  const std::string key = "base_model.model.model.embed_tokens.lora_embedding_";
  ASSERT_NE(file->Find(key + "A"), nullptr);
  EXPECT_EQ(file->Find(key + "A")->shape, (std::vector<int64_t>{2, 31}));
  EXPECT_EQ(file->Find(key + "B")->shape, (std::vector<int64_t>{12, 2}));
  // A's second value is B's second row, first column.
  float second;
  std::memcpy(&second, file->Data(*file->Find(key + "A")) + 4, 4);
  EXPECT_EQ(second, part.b[1][0].item<float>());
  const DeltaPtr loaded =
      LoadFactors(*model, folder / "e.safetensors", {{id, 0.125, key + "A", key + "B", 0, 0, true}});
  EXPECT_TRUE(SameBits(loaded->parts.at(0), part));
}

// out rows of a fused map, as its parts say: W of each part below the one before.
at::Tensor Stacked(const Model& model, const Delta& delta, std::initializer_list<int64_t> ids) {
  std::vector<at::Tensor> rows;
  for (const int64_t id : ids) {
    at::Tensor change = at::zeros({model.tensors()[id].out, model.tensors()[id].in}, at::kDouble);
    for (const DeltaPart& part : delta.parts) {
      if (part.matrix == id) change += delta_test::Twin(part, model.tensors()[id]);
    }
    rows.push_back(change);
  }
  return at::cat(rows, 0);
}

TEST(AdapterFile, FusedPartsOfOneAComeBackBitForBit) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  DeltaPart q = RandomPart(*model, DeltaKind::kLowRank, 0, 3, 3, 0.5);
  DeltaPart k = RandomPart(*model, DeltaKind::kLowRank, 1, 3, 5, 0.5);
  DeltaPart v = RandomPart(*model, DeltaKind::kLowRank, 2, 3, 7, 0.5);
  k.a = q.a.clone();
  v.a = q.a.clone();
  const DeltaPtr delta = DeltaOf(*model, {q, k, v});
  const auto modules = FactorsByModule(*delta, *model, true);
  ASSERT_EQ(modules.size(), 1u);
  EXPECT_EQ(modules[0].module, "model.layers.0.self_attn.qkv_proj");
  EXPECT_EQ(modules[0].a.sizes(), (at::IntArrayRef{3, 12}));
  EXPECT_EQ(modules[0].b.sizes(), (at::IntArrayRef{32, 3}));
  WritePeft(modules, folder / "f.safetensors");
  const std::string key = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_";
  const std::string a = key + "A.weight", b = key + "B.weight";
  const DeltaPtr loaded = LoadFactors(*model, folder / "f.safetensors",
                                      {{0, 0.5, a, b, 0}, {1, 0.5, a, b, 16}, {2, 0.5, a, b, 24}});
  ASSERT_EQ(loaded->parts.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(loaded->parts[i], delta->parts[i])) << i;
}

TEST(AdapterFile, FusedPartsThatDifferStandBlockByBlock) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat64);
  const auto part = [&](int64_t id, int64_t rank, double scale) {
    return RandomPart(*model, DeltaKind::kLowRank, id, rank, 10 * id + 1, scale);
  };
  // Other ranks, other scales, a scale of 0 first, and maps that the delta leaves alone.
  const std::vector<std::vector<DeltaPart>> cases = {{part(0, 2, 0.5), part(1, 3, -0.25), part(2, 1, 2)},
                                                     {part(0, 2, 0), part(1, 3, 0.5), part(2, 3, 0.5)},
                                                     {part(1, 3, 0.75)},
                                                     {part(0, 2, 0.5), part(2, 2, 0.5)}};
  for (const auto& parts : cases) {
    const DeltaPtr delta = DeltaOf(*model, parts);
    const auto modules = FactorsByModule(*delta, *model, true);
    ASSERT_EQ(modules.size(), 1u);
    int64_t ranks = 0;
    for (const DeltaPart& p : parts) ranks += p.rank();
    EXPECT_EQ(modules[0].a.size(0), ranks);
    const at::Tensor found = at::mm(modules[0].b, modules[0].a) * modules[0].scale;
    EXPECT_LT((found - Stacked(*model, *delta, {0, 1, 2})).abs().max().item<double>(), 1e-14);
  }
  const DeltaPtr mlp = DeltaOf(*model, {part(4, 2, 0.5), part(5, 2, 0.5), part(6, 2, 0.5)});
  const auto modules = FactorsByModule(*mlp, *model, true);
  ASSERT_EQ(modules.size(), 2u);
  EXPECT_EQ(modules[0].module, "model.layers.0.mlp.gate_up_proj");
  EXPECT_EQ(modules[1].module, "model.layers.0.mlp.down_proj");
  EXPECT_LT((at::mm(modules[0].b, modules[0].a) * modules[0].scale - Stacked(*model, *mlp, {4, 5}))
                .abs()
                .max()
                .item<double>(),
            1e-14);
}

TEST(AdapterFile, GgufAdaptersHoldPermutedRowsAndOneAlpha) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPtr delta = DeltaOf(*model, {RandomPart(*model, DeltaKind::kLowRank, 0, 2, 3, 0.7),
                                          RandomPart(*model, DeltaKind::kLowRank, 2, 2, 5, 0.7)});
  const std::vector<GgufMap> maps = {{kQ, "blk.0.attn_q.weight", 4},
                                     {"model.layers.0.self_attn.v_proj", "blk.0.attn_v.weight", 0}};
  const std::string path = folder / "a.gguf";
  WriteGgufLora(FactorsByModule(*delta, *model, false), maps, "llama", path);
  const auto file = TensorFile::Open(path);
  EXPECT_EQ(file->MetadataString("general.type"), "adapter");
  EXPECT_EQ(file->MetadataString("adapter.type"), "lora");
  EXPECT_EQ(file->MetadataString("general.architecture"), "llama");
  EXPECT_NE(file->HeaderJson().find("\"adapter.lora.alpha\":1.4"), std::string::npos);
  // Heads of 4 rows: llama.cpp's order is 0, 2, 1, 3.
  const TensorInfo* b = file->Find("blk.0.attn_q.weight.lora_b");
  ASSERT_NE(b, nullptr);
  for (int64_t r = 0; r < 16; ++r) {
    const int64_t from = r / 4 * 4 + (r % 2) * 2 + r % 4 / 2;
    float row[2];
    std::memcpy(row, file->Data(*b) + r * 8, 8);
    EXPECT_EQ(row[0], delta->parts[0].b[from][0].item<float>()) << r;
    EXPECT_EQ(row[1], delta->parts[0].b[from][1].item<float>()) << r;
  }
  const std::string q = "blk.0.attn_q.weight.lora_", v = "blk.0.attn_v.weight.lora_";
  const DeltaPtr loaded =
      LoadFactors(*model, path, {{0, 0.7, q + "a", q + "b", 0, 4}, {2, 0.7, v + "a", v + "b"}});
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(SameBits(loaded->parts[i], delta->parts[i])) << i;
}

TEST(AdapterFile, OtherScalesGoIntoB) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPtr delta = DeltaOf(*model, {RandomPart(*model, DeltaKind::kLowRank, 0, 2, 3, 0),
                                          RandomPart(*model, DeltaKind::kLowRank, 2, 2, 5, 0.5),
                                          RandomPart(*model, DeltaKind::kLowRank, 3, 4, 7, 0.5)});
  const std::vector<GgufMap> maps = {
      {kQ, "q"}, {"model.layers.0.self_attn.v_proj", "v"}, {"model.layers.0.self_attn.o_proj", "o"}};
  WriteGgufLora(FactorsByModule(*delta, *model, false), maps, "llama", folder / "a.gguf");
  // Alpha is 1: scales alpha / rank are 0.5, 0.5 and 0.25.
  EXPECT_NE(TensorFile::Open(folder / "a.gguf")->HeaderJson().find("\"adapter.lora.alpha\":1}"),
            std::string::npos);
  const DeltaPtr loaded = LoadFactors(*model, folder / "a.gguf",
                                      {{0, 0.5, "q.lora_a", "q.lora_b"},
                                       {2, 0.5, "v.lora_a", "v.lora_b"},
                                       {3, 0.25, "o.lora_a", "o.lora_b"}});
  EXPECT_EQ(loaded->parts[0].b.count_nonzero().item<int64_t>(), 0);
  EXPECT_TRUE(SameBits(loaded->parts[1], delta->parts[1]));
  EXPECT_TRUE(SameBits(loaded->parts[2].b, delta->parts[2].b * 2));
  ExpectCode("DELTA_INVALID", kQ,
             [&] { WriteGgufLora(FactorsByModule(*delta, *model, false), {}, "llama", folder / "b.gguf"); });
}

TEST(AdapterFile, OtherKindsAreRefused) {
  const c10::InferenceMode inference;
  const auto model = TinyModel(Dtype::kFloat32);
  const DeltaPtr delta = DeltaOf(*model, {RandomPart(*model, DeltaKind::kDense, 0, 2, 3, 1)});
  ExpectCode("DELTA_INVALID", "dense", [&] { FactorsByModule(*delta, *model, false); });
}

TEST(AdapterFile, BadFilesAreRefused) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const std::vector<float> values(12 * 31, 1);
  const std::string path = folder / "d.safetensors", a = QSource(1)[0].a, b = QSource(1)[0].b;
  const auto expect = [&](const std::vector<TensorToWrite>& tensors, const std::string& code,
                          const std::string& mentions, const std::vector<BaseCopy>& copies = {}) {
    WriteSafetensors(path, tensors);
    ExpectCode(code, mentions, [&] { LoadFactors(*model, path, QSource(1), copies); });
  };
  const TensorToWrite good_a{a, DType::kF32, {2, 12}, values.data()};
  const TensorToWrite good_b{b, DType::kF32, {16, 2}, values.data()};
  expect({good_a}, "TENSOR_MISSING", "lora_B");
  expect({{a, DType::kI32, {2, 12}, values.data()}, good_b}, "FILE_FORMAT", "lora_A");
  expect({{a, DType::kF32, {24}, values.data()}, good_b}, "DELTA_SHAPE", "expected two");
  expect({{a, DType::kF32, {2, 11}, values.data()}, good_b}, "DELTA_SHAPE", "[2, 11]; expected [rank, 12]");
  expect({good_a, {b, DType::kF32, {15, 2}, values.data()}}, "DELTA_SHAPE", "[15, 2]; expected [16, 2]");
  expect({good_a, {b, DType::kF32, {16, 3}, values.data()}}, "DELTA_SHAPE", "[16, 3]; expected [16, 2]");
  // Rows that no weight takes.
  expect({good_a, {b, DType::kF32, {18, 2}, values.data()}}, "DELTA_SHAPE", "[18, 2]; expected [16, rank]");
  expect({{a, DType::kF32, {0, 12}, nullptr}, {b, DType::kF32, {16, 0}, nullptr}}, "DELTA_SHAPE",
         "[0, 12]; expected [rank, 12]");
  const std::vector<float> endless(24, INFINITY);
  expect({{a, DType::kF32, {2, 12}, endless.data()}, good_b}, "DELTA_INVALID", path + ": ");
  expect({good_a, good_b, {"other", DType::kF32, {1}, values.data()}}, "TENSOR_UNEXPECTED", "other");
  // A copy of a weight that is not the model's own.
  const TensorToWrite copy{"embed", DType::kF32, {31, 12}, values.data()};
  expect({good_a, good_b, copy}, "TENSOR_UNEXPECTED", "model.embed_tokens",
         {{"embed", model->ids().embedding}});
  const at::Tensor own = model->Weight(model->ids().embedding);
  WriteSafetensors(path, {good_a, good_b, {"embed", DType::kF32, {31, 12}, own.const_data_ptr()}});
  EXPECT_EQ(LoadFactors(*model, path, QSource(1), {{"embed", model->ids().embedding}})->parts.size(), 1u);
  ExpectCode("FILE_NOT_FOUND", "nowhere", [&] { LoadFactors(*model, folder / "nowhere", {}); });
}

TEST(AdapterFile, ARankOfZeroIsRefusedWhereRowsArePermuted) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const std::string path = folder / "a.gguf";
  WriteGguf(path, {}, {{"a", DType::kF32, {0, 12}, nullptr}, {"b", DType::kF32, {16, 0}, nullptr}});
  ExpectCode("DELTA_SHAPE", "[0, 12]; expected [rank, 12]", [&] {
    LoadFactors(*model, path, {{0, 1, "a", "b", 0, 4}});
  });
}

TEST(AdapterFile, NamesThatAFileMakesUpAreCut) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const float value = 1;
  const std::string path = folder / "d.safetensors";
  WriteSafetensors(path, {{std::string(1 << 20, 'x'), DType::kF32, {1}, &value}});
  try {
    LoadFactors(*model, path, {});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "TENSOR_UNEXPECTED");
    EXPECT_LT(std::string(error.what()).size(), 1000u);
  }
}

}  // namespace
}  // namespace selfedit
