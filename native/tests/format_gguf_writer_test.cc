// GGUF files against bytes written down from the specification, and what must never be written.
#include <cstring>

#include "format/gguf_writer.h"
#include "format/json.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using format_test::Append;
using format_test::Bytes;
using format_test::ExpectError;
using format_test::Gguf;
using format_test::ReadFile;
using format_test::TemporaryFolder;

const float kValues[] = {1.5f, -2, 3, 4.25f, 5, 6};
const std::vector<std::pair<std::string, GgufValue>> kMetadata = {
    {"general.architecture", std::string("llama")},
    {"adapter.lora.alpha", 16.0f},
    {"x.count", uint32_t{7}},
    {"x.flag", true}};

Bytes BytesOf(const std::string& path) {
  const std::string text = ReadFile(path);
  return Bytes(text.begin(), text.end());
}

TEST(FormatGgufWriter, BytesAreThoseOfTheSpecification) {
  const TemporaryFolder folder;
  WriteGguf(folder / "a.gguf", kMetadata,
            {{"w.lora_a", DType::kF32, {2, 3}, kValues}, {"w.lora_b", DType::kF32, {1}, kValues + 5}});
  Gguf expected;
  Gguf::String(expected.Key("general.architecture", 8), "llama");
  Append<float>(expected.Key("adapter.lora.alpha", 6), 16);
  Append<uint32_t>(expected.Key("x.count", 4), 7);
  Append<uint8_t>(expected.Key("x.flag", 7), 1);
  expected.Tensor("w.lora_a", {3, 2}, 0, 0);
  expected.Tensor("w.lora_b", {1}, 0, 32);
  expected.data.resize(64);
  std::memcpy(expected.data.data(), kValues, 24);
  std::memcpy(expected.data.data() + 32, kValues + 5, 4);
  EXPECT_EQ(BytesOf(folder / "a.gguf"), expected.Build());
  EXPECT_EQ(folder.List(), (std::vector<std::string>{"a.gguf"}));
}

TEST(FormatGgufWriter, OurReaderFindsWhatWasWritten) {
  const TemporaryFolder folder;
  WriteGguf(folder / "a.gguf", kMetadata, {{"w", DType::kF32, {2, 3}, kValues}});
  const auto file = TensorFile::Open(folder / "a.gguf");
  EXPECT_EQ(file->MetadataString("general.architecture"), "llama");
  const TensorInfo* w = file->Find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file->Data(*w), kValues, 24), 0);
  WriteGguf(folder / "b.gguf", {}, {});
  EXPECT_TRUE(TensorFile::Open(folder / "b.gguf")->tensors().empty());
}

TEST(FormatGgufWriter, TensorsCanBeProducedPieceByPiece) {
  const TemporaryFolder folder;
  const auto produced = [&](size_t first, size_t second) {
    return TensorToWrite{"w", DType::kF32, {2, 3}, nullptr, [=](const ByteSink& sink) {
                           sink(kValues, first);
                           sink(reinterpret_cast<const char*>(kValues) + first, second);
                         }};
  };
  WriteGguf(folder / "a.gguf", kMetadata, {{"w", DType::kF32, {2, 3}, kValues}});
  WriteGguf(folder / "b.gguf", kMetadata, {produced(10, 14)});
  EXPECT_EQ(ReadFile(folder / "b.gguf"), ReadFile(folder / "a.gguf"));
  ExpectError([&] { WriteGguf(folder / "c.gguf", {}, {produced(10, 13)}); }, "INTERNAL",
              {"\"w\"", "fewer", "24"});
  ExpectError([&] { WriteGguf(folder / "c.gguf", {}, {produced(10, 15)}); }, "INTERNAL",
              {"\"w\"", "more", "24"});
  TensorToWrite failing{"w", DType::kF32, {2, 3}, nullptr, [](const ByteSink& sink) {
                          sink(kValues, 4);
                          throw Error("ABORTED", "the call was aborted");
                        }};
  ExpectError([&] { WriteGguf(folder / "a.gguf", {}, {failing}); }, "ABORTED");
  // No half-written file, and the earlier one is as it was.
  EXPECT_EQ(folder.List(), (std::vector<std::string>{"a.gguf", "b.gguf"}));
  EXPECT_EQ(ReadFile(folder / "a.gguf"), ReadFile(folder / "b.gguf"));
}

TEST(FormatGgufWriter, WhatLlamaCppWouldNotReadIsRefused) {
  const TemporaryFolder folder;
  const auto refuse = [&](const std::vector<std::pair<std::string, GgufValue>>& metadata,
                          const std::vector<TensorToWrite>& tensors, const std::string& word) {
    ExpectError([&] { WriteGguf(folder / "x.gguf", metadata, tensors); }, "INTERNAL", {"x.gguf", word});
  };
  const TensorToWrite good{"w", DType::kF32, {2}, kValues};
  refuse({}, {good, good}, "\"w\" occurs twice");
  refuse({}, {{"", DType::kF32, {2}, kValues}}, "name");
  refuse({}, {{std::string(64, 'n'), DType::kF32, {2}, kValues}}, "name");
  refuse({}, {{"\xff", DType::kF32, {2}, kValues}}, "name");
  refuse({}, {{"w", DType::kBool, {2}, kValues}}, "BOOL");
  refuse({}, {{"w", DType::kF32, {1, 1, 1, 1, 2}, kValues}}, "[1, 1, 1, 1, 2]");
  refuse({}, {{"w", DType::kF32, {-1}, kValues}}, "[-1]");
  refuse({}, {{"w", DType::kQ8_0, {33}, kValues}}, "[33]");
  refuse({}, {{"w", DType::kF32, {2}}}, "no data");
  refuse({{"k", true}, {"k", false}}, {good}, "\"k\"");
  refuse({{"", true}}, {good}, "key");
  refuse({{"general.alignment", uint32_t{64}}}, {good}, "alignment");
  EXPECT_TRUE(folder.List().empty());
}

}  // namespace
}  // namespace selfedit
