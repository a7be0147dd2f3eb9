#include "format/json.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

#include "format_fixture.inc"

using format_test::Append;
using format_test::Bytes;
using format_test::ExpectError;
using format_test::OpenBytes;
using format_test::ReadFile;
using format_test::Safetensors;
using format_test::TemporaryFolder;

const char kGood[] =
    R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
    R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"s":{"dtype":"I64","shape":[],"data_offsets":[28,36]},)"
    R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}   )";

TEST(FormatSafetensors, ReadsAGoodFile) {
  const auto file = OpenBytes(Safetensors(kGood, 36), "good.safetensors");
  EXPECT_EQ(file->format(), Format::kSafetensors);
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensors()[0].name, "b");  // by offset
  EXPECT_EQ(file->tensors()[3].name, "s");
  const TensorInfo* w = file->Find("w");
  ASSERT_TRUE(w);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(w->bytes, 24u);
  EXPECT_EQ(w->offset, 8 + std::strlen(kGood) + 4);
  EXPECT_EQ(w->Rows(), 2);
  EXPECT_EQ(w->RowLength(), 3);
  EXPECT_EQ(file->Data(*w)[0], 4);
  EXPECT_EQ(file->Find("s")->Elements(), 1);
  EXPECT_EQ(file->Find("e")->Elements(), 0);
  EXPECT_EQ(file->Find("x"), nullptr);
  EXPECT_EQ(file->MetadataString("format"), "pt");
  EXPECT_EQ(file->MetadataString("w"), std::nullopt);
  const Json header = ParseJson(file->HeaderJson(), "HeaderJson");
  EXPECT_EQ(*header.Find("format")->AsString(), "safetensors");
  EXPECT_TRUE(header.Find("version")->IsNull());
  EXPECT_EQ(*header.Find("metadata")->Find("format")->AsString(), "pt");
  const Json& first = (*header.Find("tensors")->AsArray())[0];
  EXPECT_EQ(*first.Find("name")->AsString(), "b");
  EXPECT_EQ(*first.Find("dtype")->AsString(), "BF16");
  EXPECT_NO_THROW(OpenBytes(Safetensors("{}", 0)));
}

TEST(FormatSafetensors, EveryCutIsRefused) {
  const Bytes good = Safetensors(kGood, 36);
  for (size_t length = 0; length < good.size(); ++length) {
    SCOPED_TRACE(length);
    ExpectError([&] { OpenBytes(Bytes(good.begin(), good.begin() + length), "cut.safetensors"); },
                "FILE_TRUNCATED", {"cut.safetensors"});
  }
}

TEST(FormatSafetensors, RefusesAHostileHeader) {
  const struct {
    const char* header;
    size_t data;
    const char* code;
    std::vector<std::string> words;
  } cases[] = {
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       9,
       "FILE_FORMAT",
       {"1 bytes after", "test.file"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       7,
       "FILE_TRUNCATED",
       {"\"w\"", "8 bytes"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "FILE_FORMAT", {"\"w\"", "hole"}},
      {R"({"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
       9,
       "FILE_FORMAT",
       {"\"w\"", "a hole after \"v\""}},
      {R"({"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
       7,
       "FILE_FORMAT",
       {"\"w\"", "an overlap with \"v\""}},
      {R"({"v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4,
       "FILE_FORMAT",
       {"overlap"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})",
       4,
       "FILE_FORMAT",
       {"\"w\"", "8 bytes", "give 4"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
       8,
       "FILE_FORMAT",
       {"\"w\"", "begin <= end"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "FILE_FORMAT", {"data_offsets"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "FILE_FORMAT", {"data_offsets"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}})", 8, "FILE_FORMAT", {"data_offsets"}},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8, "FILE_FORMAT", {"data_offsets"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[18446744073709551607,18446744073709551615]}})",
       8,
       "FILE_FORMAT",
       {"\"w\"", "beyond any file"}},
      {R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[18446744073709550000,18446744073709550008]}})",
       8,
       "FILE_TRUNCATED",
       {"\"w\""}},
      {R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
       0,
       "FILE_FORMAT",
       {"\"w\"", "64 bits"}},
      {R"({"w":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})",
       0,
       "FILE_FORMAT",
       {"\"w\"", "64 bits"}},
      {R"({"w":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})",
       0,
       "FILE_FORMAT",
       {"64 bits"}},
      {R"({"w":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})",
       0,
       "FILE_FORMAT",
       {"shape"}},
      {R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})",
       0,
       "FILE_FORMAT",
       {"\"w\"", "whole numbers"}},
      {R"({"w":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})", 8, "FILE_FORMAT", {"shape"}},
      {R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
       4,
       "FILE_FORMAT",
       {"9 dimensions"}},
      {R"({"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})",
       1,
       "FILE_FORMAT",
       {"\"w\"", "F8_E4M3"}},
      {R"({"w":{"dtype":"Q4_0","shape":[32],"data_offsets":[0,18]}})", 18, "FILE_FORMAT", {"\"w\"", "Q4_0"}},
      {R"({"w":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", 1, "FILE_FORMAT", {"\"w\""}},
      {R"({"w":{"shape":[1],"data_offsets":[0,1]}})", 1, "FILE_FORMAT", {"\"w\""}},
      {R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}})", 1, "FILE_FORMAT", {"\"w\""}},
      {R"({"w":[1]})", 0, "FILE_FORMAT", {"\"w\""}},
      {R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2,
       "FILE_FORMAT",
       {"\"w\"", "twice"}},
      {R"({"__metadata__":[]})", 0, "FILE_FORMAT", {"__metadata__", "an array"}},
      {R"({"__metadata__":{"k":1}})", 0, "FILE_FORMAT", {"__metadata__", "\"k\"", "a number"}},
      {R"({} x)", 0, "FILE_FORMAT", {"text after the value"}},
      {R"({)", 0, "FILE_FORMAT", {"JSON"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header);
    ExpectError([&] { OpenBytes(Safetensors(c.header, c.data)); }, c.code, c.words);
  }
}

TEST(FormatSafetensors, RefusesALyingHeaderLength) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{99'999'999}}) {  // beyond the file, within the limit
    Bytes bytes;
    Append(&bytes, length);
    bytes.insert(bytes.end(), {'{', '}'});
    ExpectError([&] { OpenBytes(bytes); }, "FILE_TRUNCATED", {"header of " + std::to_string(length)});
  }
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 63, UINT64_MAX}) {
    Bytes bytes;
    Append(&bytes, length);
    bytes.insert(bytes.end(), {'{', '}'});
    ExpectError([&] { OpenBytes(bytes); }, "FILE_FORMAT", {"at most 100000000"});
  }
  Bytes empty;
  Append<uint64_t>(&empty, 0);
  empty.push_back('{');
  ExpectError([&] { OpenBytes(empty); }, "FILE_FORMAT", {"empty header"});
  ExpectError([&] { OpenBytes(Safetensors(" {}", 0), "x.safetensors"); }, "FILE_FORMAT", {"begins with '{'"});
}

TEST(FormatSafetensors, RefusesTooManyKeys) {
  std::string header = "{";
  for (int i = 0; i <= 100'000; ++i) {
    header +=
        (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  ExpectError([&] { OpenBytes(Safetensors(header + "}", 0)); }, "FILE_FORMAT", {"more than 100000 keys"});
}

/// The tensors that library_safetensors() of scripts/fixtures/gguf_quants.py wrote, in another order.
std::vector<TensorToWrite> LibraryTensors() {
  static const float b[] = {0, 1, 2, 3, 4, 5}, a[] = {1.5f};
  static const uint16_t half[] = {0x3C00, 0x4000, 0x4200};
  static const uint8_t flags[] = {1, 0}, bytes[] = {1, 2, 3};
  static const int8_t one[] = {-1};
  static const int16_t two[] = {-2};
  static const int32_t three[] = {-3};
  static const int64_t four[] = {-4};
  static const double quarter[] = {0.25};
  return {{"bytes", DType::kU8, {3}, bytes},      {"flags", DType::kBool, {2}, flags},
          {"half", DType::kF16, {3}, half},       {"b", DType::kF32, {2, 3}, b},
          {"a \"quoted\" é", DType::kF32, {}, a}, {"empty", DType::kF32, {0, 4}, nullptr},
          {"signed", DType::kI8, {1}, one},       {"short", DType::kI16, {1}, two},
          {"int", DType::kI32, {1}, three},       {"long", DType::kI64, {1}, four},
          {"double", DType::kF64, {1}, quarter}};
}

TEST(FormatSafetensorsWriter, WritesTheBytesOfTheLibrary) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  WriteSafetensors(path, LibraryTensors(), {{"format", "pt"}});
  const std::string expected(std::begin(kLibrarySafetensors), std::end(kLibrarySafetensors));
  EXPECT_EQ(ReadFile(path), expected);
  EXPECT_EQ(folder.List(), std::vector<std::string>{"x.safetensors"});
}

TEST(FormatSafetensorsWriter, WhatIsWrittenReadsBack) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const auto tensors = LibraryTensors();
  WriteSafetensors(path, tensors, {{"k\n", "v\"é"}, {"steps", "12"}});
  const auto file = TensorFile::Open(path);
  EXPECT_EQ(file->MetadataString("k\n"), "v\"é");
  EXPECT_EQ(file->MetadataString("steps"), "12");
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const TensorToWrite& tensor : tensors) {
    const TensorInfo* info = file->Find(tensor.name);
    ASSERT_TRUE(info) << tensor.name;
    EXPECT_EQ(info->dtype, tensor.dtype);
    EXPECT_EQ(info->shape, tensor.shape);
    EXPECT_EQ(info->offset % static_cast<uint64_t>(DTypeBlockBytes(info->dtype)), 0u);
    if (info->bytes == 0) continue;
    EXPECT_EQ(std::memcmp(file->Data(*info), tensor.data, info->bytes), 0);
  }
  WriteSafetensors(path, {});
  EXPECT_TRUE(TensorFile::Open(path)->tensors().empty());
}

TEST(FormatSafetensorsWriter, RefusesMisuse) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  const float one = 1;
  const auto write = [&](std::vector<TensorToWrite> tensors) {
    return [&path, tensors] { WriteSafetensors(path, tensors); };
  };
  ExpectError(write({{"a", DType::kF32, {1}, &one}, {"a", DType::kF32, {1}, &one}}), "INTERNAL", {"twice"});
  ExpectError(write({{"__metadata__", DType::kF32, {1}, &one}}), "INTERNAL");
  ExpectError(write({{"\xFF", DType::kF32, {1}, &one}}), "INTERNAL");
  ExpectError(write({{"a", DType::kQ4_0, {32}, &one}}), "INTERNAL", {"Q4_0"});
  ExpectError(write({{"a", DType::kF32, {-1}, &one}}), "INTERNAL", {"[-1]"});
  ExpectError(write({{"a", DType::kF32, {1}, nullptr}}), "INTERNAL", {"no data"});
  ExpectError([&] { WriteSafetensors(path, {}, {{"k", "1"}, {"k", "2"}}); }, "INTERNAL", {"\"k\""});
  EXPECT_TRUE(folder.List().empty());
}

}  // namespace
}  // namespace selfedit
