#include <limits>

#include "format/json.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

#include "format_fixture.inc"

using format_test::Append;
using format_test::Bytes;
using format_test::ExpectError;
using format_test::Gguf;
using format_test::OpenBytes;

enum : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4K = 12,
  kIq4Xs = 23,
  kUint32 = 4,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9
};

/// Two float32 tensors of 4 and 2 values, the second after 16 bytes of padding, and a few metadata entries.
Gguf Good() {
  Gguf gguf;
  Gguf::String(gguf.Key("general.architecture", kString), "llama");
  Append<uint32_t>(gguf.Key("llama.block_count", kUint32), 7);
  gguf.Tensor("first", {2, 2}, kF32, 0);
  gguf.Tensor("second", {2}, kF32, 32);
  gguf.data.resize(40);
  return gguf;
}

TEST(FormatGguf, ReadsBothVersions) {
  for (const uint32_t version : {2u, 3u}) {
    Gguf gguf = Good();
    gguf.version = version;
    const Bytes bytes = gguf.Build();
    const auto file = OpenBytes(bytes);
    EXPECT_EQ(file->format(), Format::kGguf);
    ASSERT_EQ(file->tensors().size(), 2u);
    EXPECT_EQ(file->tensors()[1].offset, bytes.size() - 8);
    EXPECT_EQ(file->MetadataString("general.architecture"), "llama");
    EXPECT_EQ(file->MetadataString("llama.block_count"), std::nullopt);  // not a string
    uint64_t value = 0;
    EXPECT_TRUE(ParseJson(file->HeaderJson(), "json").Find("version")->AsUint(&value));
    EXPECT_EQ(value, version);
  }
}

TEST(FormatGguf, AllowsPaddingAfterTheLastTensorOnly) {
  Gguf gguf = Good();
  gguf.data.resize(64);
  EXPECT_NO_THROW(OpenBytes(gguf.Build()));
  gguf.data.resize(65);
  ExpectError([&] { OpenBytes(gguf.Build()); }, "FILE_FORMAT", {"25 bytes after the last tensor"});
}

TEST(FormatGguf, ShapesAreRowMajor) {
  Gguf gguf;
  gguf.Tensor("w", {64, 3, 2}, kQ4_0, 0);
  gguf.data.resize(2 * 3 * 2 * 18);
  const auto file = OpenBytes(gguf.Build());
  const TensorInfo& w = file->tensors()[0];
  EXPECT_EQ(w.shape, (std::vector<int64_t>{2, 3, 64}));
  EXPECT_EQ(w.RowLength(), 64);
  EXPECT_EQ(w.Rows(), 6);
  EXPECT_EQ(w.RowBytes(), 36u);
}

TEST(FormatGguf, AlignmentComesFromTheMetadata) {
  Gguf gguf;
  gguf.alignment = 128;
  Append<uint32_t>(gguf.Key("general.alignment", kUint32), 128);
  gguf.Tensor("a", {1}, kF32, 0);
  gguf.Tensor("b", {1}, kF32, 128);
  gguf.data.resize(132);
  EXPECT_EQ(OpenBytes(gguf.Build())->tensors()[1].offset % 128, 0u);
}

TEST(FormatGguf, TensorsMayBeListedInAnyOrder) {
  Gguf gguf;
  gguf.Tensor("second", {1}, kF32, 32);
  gguf.Tensor("empty", {0, 3}, kF32, 32);
  gguf.Tensor("first", {1}, kF32, 0);
  gguf.data.resize(36);
  const auto file = OpenBytes(gguf.Build());
  EXPECT_EQ(file->tensors()[0].name, "first");
  EXPECT_EQ(file->tensors()[1].name, "empty");
}

TEST(FormatGguf, AVocabularyHasNoTensors) {
  Gguf gguf;
  Gguf::String(gguf.Key("k", kString), "v");
  EXPECT_TRUE(OpenBytes(gguf.Build())->tensors().empty());
}

TEST(FormatGguf, ReadsAFileOfGgufPy) {
  const auto file = OpenBytes(Bytes(std::begin(kGgufPyFile), std::end(kGgufPyFile)));
  ASSERT_EQ(file->tensors().size(), std::size(kGgufPyTensors));
  for (const GgufPyTensor& expected : kGgufPyTensors) {
    const TensorInfo* tensor = file->Find(expected.name);
    ASSERT_TRUE(tensor) << expected.name;
    EXPECT_STREQ(DTypeName(tensor->dtype), expected.dtype);
    EXPECT_EQ(tensor->shape, (std::vector<int64_t>{kGgufPyRows, expected.length}));
  }
  const std::string text = file->HeaderJson();
  const size_t start = text.find("\"metadata\":") + 11;
  EXPECT_EQ(
      text.substr(start, text.find(",\"tensors\":") - start),
      "{\"general.architecture\":\"llama\",\"test.uint8\":255,\"test.int8\":-128,\"test.uint16\":65535,"
      "\"test.int16\":-32768,\"test.uint32\":4294967295,\"test.int32\":-2147483648,\"test.float32\":1e-05,"
      "\"test.uint64\":18446744073709551615,\"test.int64\":-9223372036854775808,\"test.float64\":0.1,"
      "\"test.bool\":true,\"test.string\":\"naïve \\\"quotes\\\"\\n\",\"test.strings\":[\"a\",\"\",\"Ġthe\"],"
      "\"test.floats\":[0.5,-2]}");
  EXPECT_EQ(file->MetadataString("test.string"), "naïve \"quotes\"\n");
}

TEST(FormatGguf, HeaderJsonIsValidWhateverTheStringsHold) {
  Gguf gguf;
  Gguf::String(gguf.Key("bad", kString), "a\xFF\xC3");
  Bytes* out = gguf.Key("tokens", kArray);
  Append<uint32_t>(out, kString);
  Append<uint64_t>(out, 2);
  Gguf::String(out, std::string_view("\0", 1));
  Gguf::String(out, "\xF0\x9F");
  out = gguf.Key("scores", kArray);
  Append<uint32_t>(out, kFloat32);
  Append<uint64_t>(out, 2);
  Append(out, -std::numeric_limits<float>::infinity());
  Append(out, 0.25f);
  const Json header = ParseJson(OpenBytes(gguf.Build())->HeaderJson(), "json");
  const Json& metadata = *header.Find("metadata");
  EXPECT_EQ(*metadata.Find("bad")->AsString(), "a\uFFFD\uFFFD");
  EXPECT_EQ(*(*metadata.Find("tokens")->AsArray())[0].AsString(), std::string(1, '\0'));
  EXPECT_EQ(*(*metadata.Find("tokens")->AsArray())[1].AsString(), "\uFFFD\uFFFD");
  EXPECT_TRUE((*metadata.Find("scores")->AsArray())[0].IsNull());
}

TEST(FormatGguf, EveryCutIsRefused) {
  const Bytes good = Good().Build();
  for (size_t length = 0; length < good.size(); ++length) {
    SCOPED_TRACE(length);
    ExpectError([&] { OpenBytes(Bytes(good.begin(), good.begin() + length), "cut.gguf"); }, "FILE_TRUNCATED",
                {"cut.gguf"});
  }
  const Bytes real(std::begin(kGgufPyFile), std::end(kGgufPyFile));
  const auto file = OpenBytes(real);
  const size_t end = file->tensors().back().offset + file->tensors().back().bytes;
  for (size_t length = 0; length < end; length += 7) {
    SCOPED_TRACE(length);
    ExpectError([&] { OpenBytes(Bytes(real.begin(), real.begin() + length), "cut.gguf"); }, "FILE_TRUNCATED");
  }
}

void Refused(const std::function<void(Gguf*)>& change, const std::string& code,
             const std::vector<std::string>& words) {
  Gguf gguf = Good();
  change(&gguf);
  SCOPED_TRACE(words.empty() ? "" : words[0]);
  ExpectError([&] { OpenBytes(gguf.Build(), "bad.gguf"); }, code, words);
}

TEST(FormatGguf, RefusesOtherVersions) {
  Refused([](Gguf* g) { g->version = 1; }, "FILE_FORMAT", {"version 1", "2 or 3"});
  Refused([](Gguf* g) { g->version = 4; }, "FILE_FORMAT", {"version 4"});
  Refused([](Gguf* g) { g->version = 0x03000000; }, "FILE_FORMAT", {"big-endian"});
  ExpectError(
      [] {
        OpenBytes({'t', 'j', 'g', 'g', 1, 0, 0, 0, 0, 0}, "old.gguf");
      },
      "FILE_FORMAT", {"before GGUF"});
}

TEST(FormatGguf, RefusesCountsThatCannotBe) {
  for (const uint64_t count : {uint64_t{10'000'001}, uint64_t{1} << 63, UINT64_MAX}) {
    Refused([&](Gguf* g) { g->tensor_count = count; }, "FILE_FORMAT", {"tensors: ", "at most 10000000"});
  }
  Refused([](Gguf* g) { g->tensor_count = 10'000'000; }, "FILE_TRUNCATED", {"tensors: 10000000 do not fit"});
  Refused([](Gguf* g) { g->key_count = 100'001; }, "FILE_FORMAT", {"metadata keys: ", "at most 100000"});
  Refused([](Gguf* g) { g->key_count = 100'000; }, "FILE_TRUNCATED", {"metadata keys: 100000 do not fit"});
  Refused([](Gguf* g) { g->key_count = UINT64_MAX; }, "FILE_FORMAT", {"metadata keys"});
}

TEST(FormatGguf, RefusesHostileMetadata) {
  Refused([](Gguf* g) { Append<uint64_t>(g->Key("k", kString), UINT64_MAX); }, "FILE_FORMAT",
          {"\"k\"", "at most 10485760"});
  Refused([](Gguf* g) { Append<uint64_t>(g->Key("k", kString), 10'000'000); }, "FILE_TRUNCATED", {"\"k\""});
  Refused([](Gguf* g) { Gguf::String(g->Key("k", kString), std::string((1 << 16) + 1, '\xFF')); },
          "FILE_FORMAT", {"\"k\"", "65537 bytes that is not UTF-8", "at most 65536"});
  Gguf broken;
  Gguf::String(broken.Key("k", kString), std::string(1 << 16, '\xFF'));
  Gguf::String(broken.Key("l", kString), std::string(1 << 20, 'l'));
  EXPECT_NO_THROW(OpenBytes(broken.Build()));
  Refused([](Gguf* g) { g->Key("k", 13); }, "FILE_FORMAT", {"\"k\"", "unknown value type 13"});
  Refused([](Gguf* g) { Append<uint8_t>(g->Key("k", kBool), 2); }, "FILE_FORMAT",
          {"\"k\"", "bool of value 2"});
  Refused([](Gguf* g) { Append<uint32_t>(g->Key("llama.block_count", kUint32), 1); }, "FILE_FORMAT",
          {"\"llama.block_count\"", "twice"});
  Refused([](Gguf* g) { Append<uint32_t>(g->Key("\xFF", kUint32), 1); }, "FILE_FORMAT",
          {"metadata key", "UTF-8"});
  const auto array = [](uint32_t element, uint64_t count) {
    return [=](Gguf* g) {
      Bytes* out = g->Key("k", kArray);
      Append(out, element);
      Append(out, count);
    };
  };
  Refused(array(kUint32, UINT64_MAX), "FILE_TRUNCATED", {"\"k\"", "do not fit"});
  Refused(array(kUint32, (uint64_t{1} << 62) + 1), "FILE_TRUNCATED", {"\"k\"", "do not fit"});
  Refused(array(kString, 1000), "FILE_TRUNCATED", {"\"k\"", "do not fit"});
  // 3 million bytes are allowed once, not twice.
  const auto zeros = [](Gguf* g, const char* key) {
    Bytes* out = g->Key(key, kArray);
    Append<uint32_t>(out, 0);
    Append<uint64_t>(out, 3'000'000);
    out->resize(out->size() + 3'000'000);
  };
  Gguf once;
  zeros(&once, "k");
  EXPECT_NO_THROW(OpenBytes(once.Build()));
  Refused([&](Gguf* g) { zeros(g, "k"), zeros(g, "l"); }, "FILE_FORMAT",
          {"\"l\"", "after 3000000", "at most 4000000"});
  Refused(array(99, 0), "FILE_FORMAT", {"\"k\"", "unknown value type 99"});
}

TEST(FormatGguf, ArraysNestAtMostFourDeep) {
  const auto nested = [](int depth) {
    Gguf gguf;
    Bytes* out = gguf.Key("k", kArray);
    for (int i = 1; i < depth; ++i) {
      Append<uint32_t>(out, kArray);
      Append<uint64_t>(out, 1);
    }
    Append<uint32_t>(out, kUint32);
    Append<uint64_t>(out, 1);
    Append<uint32_t>(out, 5);
    return gguf.Build();
  };
  const auto file = OpenBytes(nested(4));
  EXPECT_NE(file->HeaderJson().find("\"k\":[[[[5]]]]"), std::string::npos);
  ExpectError([&] { OpenBytes(nested(5)); }, "FILE_FORMAT", {"\"k\"", "nested deeper than 4"});
  ExpectError([&] { OpenBytes(nested(5000)); }, "FILE_FORMAT", {"nested deeper than 4"});
}

TEST(FormatGguf, RefusesABadAlignment) {
  for (const uint32_t alignment : {0u, 3u, 48u, UINT32_MAX}) {
    Refused([&](Gguf* g) { Append<uint32_t>(g->Key("general.alignment", kUint32), alignment); },
            "FILE_FORMAT", {"general.alignment", "power of two", std::to_string(alignment)});
  }
  Refused([](Gguf* g) { Gguf::String(g->Key("general.alignment", kString), "32"); }, "FILE_FORMAT",
          {"general.alignment", "expected uint32, found string"});
  // Correct but so large that the tensors would have to lie beyond the end of the file.
  Refused([](Gguf* g) { Append<uint32_t>(g->Key("general.alignment", kUint32), 1u << 31); }, "FILE_TRUNCATED",
          {"\"first\""});
}

TEST(FormatGguf, RefusesHostileTensors) {
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, 64); }, "FILE_TRUNCATED", {"\"third\""});
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, 0); }, "FILE_FORMAT", {"overlap"});
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, 33); }, "FILE_FORMAT", {"\"third\"", "overlap"});
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, 96), g->data.resize(100); }, "FILE_FORMAT",
          {"\"third\"", "a hole after \"second\""});
  Refused([](Gguf* g) { g->Tensor("first", {1}, kF32, 64), g->data.resize(68); }, "FILE_FORMAT",
          {"\"first\"", "twice"});
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, UINT64_MAX); }, "FILE_FORMAT",
          {"\"third\"", "beyond any file"});
  Refused([](Gguf* g) { g->Tensor("third", {1}, kF32, UINT64_MAX - 10000); }, "FILE_TRUNCATED",
          {"\"third\""});
  Refused([](Gguf* g) { g->Tensor("\xFF", {1}, kF32, 64); }, "FILE_FORMAT", {"tensor name", "UTF-8"});
  Refused([](Gguf* g) { g->Tensor("third", std::vector<uint64_t>(9, 1), kF32, 64); }, "FILE_FORMAT",
          {"\"third\"", "9 dimensions"});
  Refused([](Gguf* g) { g->Tensor("third", {uint64_t{1} << 63}, kF32, 64); }, "FILE_FORMAT",
          {"\"third\"", "dimension of 9223372036854775808"});
  Refused(
      [](Gguf* g) {
        g->Tensor("third", {1u << 31, 1u << 31, 2}, kF32, 64);
      },
      "FILE_FORMAT", {"\"third\"", "[2, 2147483648, 2147483648]", "64 bits"});
  Refused(
      [](Gguf* g) {
        g->Tensor("third", {0, 1u << 31, 1u << 31, 2}, kF32, 64);
      },
      "FILE_FORMAT", {"64 bits"});
  Refused([](Gguf* g) { g->Tensor("third", {256}, kIq4Xs, 64); }, "FILE_FORMAT",
          {"\"third\"", "type 23 (IQ4_XS)", "expected one of F64, F32", "Q4_0", "Q8_0", "Q2_K", "Q6_K"});
  Refused([](Gguf* g) { g->Tensor("third", {256}, 1000, 64); }, "FILE_FORMAT",
          {"\"third\"", "type 1000 (unknown)"});
  Refused([](Gguf* g) { g->Tensor("third", {256}, UINT32_MAX, 64); }, "FILE_FORMAT",
          {"\"third\"", "(unknown)"});
  Refused(
      [](Gguf* g) {
        g->Tensor("third", {48, 2}, kQ4_0, 64);
      },
      "FILE_FORMAT", {"\"third\"", "rows of 48", "Q4_0", "multiple of 32"});
  Refused(
      [](Gguf* g) {
        g->Tensor("third", {128, 2}, kQ4K, 64);
      },
      "FILE_FORMAT", {"\"third\"", "rows of 128", "Q4_K", "multiple of 256"});
  Refused([](Gguf* g) { g->Tensor("third", {}, kQ4_0, 64); }, "FILE_FORMAT", {"\"third\"", "rows of 1"});
}

}  // namespace
}  // namespace selfedit
