#include <cmath>
#include <limits>

#include "format/json.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using format_test::ExpectError;

Json Parse(std::string_view text, const JsonLimits& limits = {}) { return ParseJson(text, "header", limits); }

TEST(FormatJson, ReadsEveryKindOfValue) {
  const Json root = Parse(" {\"a\" : [1, -2, 2.5e3, true, false, null, \"x\", {}, []] , \"b\":\"\"}\n\t ");
  ASSERT_TRUE(root.AsObject());
  ASSERT_EQ(root.AsObject()->size(), 2u);
  EXPECT_EQ((*root.AsObject())[1].first, "b");
  const Json::Array& a = *root.Find("a")->AsArray();
  ASSERT_EQ(a.size(), 9u);
  uint64_t whole = 0;
  int64_t below = 0;
  double real = 0;
  EXPECT_TRUE(a[0].AsUint(&whole) && whole == 1);
  EXPECT_TRUE(a[1].AsInt(&below) && below == -2);
  EXPECT_FALSE(a[1].AsUint(&whole));
  EXPECT_TRUE(a[2].AsNumber(&real) && real == 2500);
  EXPECT_FALSE(a[2].AsInt(&below));
  EXPECT_TRUE(*a[3].AsBool());
  EXPECT_FALSE(*a[4].AsBool());
  EXPECT_TRUE(a[5].IsNull());
  EXPECT_EQ(*a[6].AsString(), "x");
  EXPECT_TRUE(a[7].AsObject()->empty());
  EXPECT_TRUE(a[8].AsArray()->empty());
  EXPECT_EQ(root.Find("c"), nullptr);
  EXPECT_EQ(a[0].Find("x"), nullptr);
  EXPECT_STREQ(a[8].TypeName(), "an array");
}

TEST(FormatJson, KeepsIntegersExact) {
  uint64_t whole = 0;
  int64_t below = 0;
  double real = 0;
  EXPECT_TRUE(Parse("18446744073709551615").AsUint(&whole));
  EXPECT_EQ(whole, UINT64_MAX);
  EXPECT_FALSE(Parse("18446744073709551615").AsInt(&below));
  EXPECT_TRUE(Parse("-9223372036854775808").AsInt(&below));
  EXPECT_EQ(below, INT64_MIN);
  EXPECT_FALSE(Parse("18446744073709551616").AsUint(&whole));  // only as a double
  EXPECT_TRUE(Parse("18446744073709551616").AsNumber(&real));
  EXPECT_EQ(real, 18446744073709551616.0);
  EXPECT_FALSE(Parse("1.0").AsUint(&whole));
  EXPECT_TRUE(Parse("-0").AsUint(&whole));
  EXPECT_EQ(whole, 0u);
}

TEST(FormatJson, ReadsEscapesAndUnicode) {
  EXPECT_EQ(*Parse(R"("\"\\\/\b\f\n\r\t")").AsString(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*Parse(R"("\u0041\u00e9\u20AC\ud83d\ude00")").AsString(), "Aé€😀");
  EXPECT_EQ(*Parse("\"Aé€😀\"").AsString(), "Aé€😀");
  EXPECT_EQ(*Parse(R"("\u0000")").AsString(), std::string(1, '\0'));
}

TEST(FormatJson, RefusesWhatIsNotJson) {
  const std::string_view wrong[] = {
      "", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}",
      "{a:1}", "{'a':1}", "{1:1}", "{\"a\" 1}", "[1 2]", "nul", "True", "NaN", "Infinity", "-", "+1", "01",
      "-01", "1.", ".5", "1e", "1e+", "0x10", "1_000", "\"", "\"a", "\"\\\"", "\"\\x\"", "\"\\u12\"",
      "\"\\u12g4\"", "\"\\u-123\"", "\"\\ud800\"", "\"\\ud800\\n\"", "\"\\ud800\\u0041\"", "\"\\udc00\"",
      "\"\\udc00\\udc00\"", "\"a\nb\"", "\"\t\"", "{} {}", "1 2", "[]x", "/**/1", "1e999", "\xEF\xBB\xBF{}",
      "\xA0[]",
      // not UTF-8: stray continuation, overlong, surrogate, beyond U+10FFFF, cut off
      "\"\x80\"", "\"\xC0\x80\"", "\"\xE0\x80\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xF5\"",
      "\"\xE2\x82\"", "\"\xF0\x9F\x98"};
  for (const std::string_view text : wrong) {
    SCOPED_TRACE(std::string(text));
    ExpectError([&] { Parse(text); }, "FILE_FORMAT", {"header: invalid JSON at byte"});
  }
}

TEST(FormatJson, RefusesDuplicateKeys) {
  ExpectError([] { Parse(R"({"a":1,"b":2,"a":3})"); }, "FILE_FORMAT", {"\"a\"", "twice"});
  ExpectError([] { Parse(R"({"a":1,"\u0061":2})"); }, "FILE_FORMAT", {"\"a\"", "twice"});
  ExpectError([] { Parse(R"([{"x":{"k":1,"k":1}}])"); }, "FILE_FORMAT", {"\"k\"", "twice"});
  EXPECT_NO_THROW(Parse(R"({"a":{"a":1},"b":{"a":1}})"));
}

TEST(FormatJson, KeepsItsLimits) {
  JsonLimits limits;
  limits.depth = 3;
  EXPECT_NO_THROW(Parse("[[[1]]]", limits));
  ExpectError([&] { Parse("[[[[1]]]]", limits); }, "FILE_FORMAT", {"nested deeper than 3"});
  ExpectError([&] { Parse("[{\"a\":[{}]}]", limits); }, "FILE_FORMAT", {"nested deeper than 3"});
  limits.keys = 2;
  EXPECT_NO_THROW(Parse(R"({"a":1,"b":2})", limits));
  ExpectError([&] { Parse(R"({"a":1,"b":2,"c":3})", limits); }, "FILE_FORMAT", {"more than 2 keys"});
  limits.string_bytes = 4;
  EXPECT_NO_THROW(Parse("\"four\"", limits));
  ExpectError([&] { Parse("\"five5\"", limits); }, "FILE_FORMAT", {"longer than 4 bytes"});
  limits.elements = 3;
  EXPECT_NO_THROW(Parse("[[1,2],[1,2]]", limits));
  ExpectError([&] { Parse("[1,2,3,4]", limits); }, "FILE_FORMAT", {"more than 3 elements in an array"});
  limits.elements = SIZE_MAX;
  limits.values = 5;
  EXPECT_NO_THROW(Parse("[1,2,3,4]", limits));
  ExpectError([&] { Parse("[1,2,3,4,5]", limits); }, "FILE_FORMAT", {"more than 5 values"});
  // The usual limits hold against a text made to exhaust the stack.
  ExpectError([] { Parse(std::string(1 << 20, '[')); }, "FILE_FORMAT", {"nested deeper"});
}

TEST(FormatJson, HandsMembersOverAsTheyAreRead) {
  std::vector<std::string> keys;
  const auto members = [&](std::string_view text) {
    keys.clear();
    ParseJsonMembers(text, "x.json", {}, [&](std::string key, const Json& value) {
      keys.push_back(std::move(key));
      if (value.IsNull()) throw Error("FILE_FORMAT", "stop");
    });
  };
  members(R"( {"a":[1],"b":{"c":2},"a":3} )");
  EXPECT_EQ(keys, (std::vector<std::string>{"a", "b", "a"}));
  // What comes after a refused member is not looked at.
  ExpectError([&] { members(R"({"a":1,"b":null,x)"); }, "FILE_FORMAT", {"stop"});
  EXPECT_EQ(keys.size(), 2u);
  for (const char* text : {"", "[]", "7", "{", R"({"a":1)", R"({"a":1,})", R"({"a":1}})"}) {
    ExpectError([&] { members(text); }, "FILE_FORMAT", {"x.json"});
  }
}

TEST(FormatJson, MessagesAreShortAndPrintable) {
  try {
    Parse("{\"" + std::string(5000, 'k') + "\":1,\"" + std::string(5000, 'k') + "\":1}");
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::string(error.what()).size(), 400u);
    EXPECT_NE(std::string(error.what()).find("5000 bytes"), std::string::npos);
  }
  EXPECT_EQ(QuoteForMessage("a\n\x01\xFF"), "\"a\\n\\u0001\xEF\xBF\xBD\"");
  EXPECT_TRUE(IsValidUtf8(QuoteForMessage(std::string(199, 'a') + "é…é")));
}

TEST(FormatJson, WritesWhatItReads) {
  JsonWriter out;
  out.BeginObject();
  out.Key("a\"\\\n\x1f");
  out.BeginArray();
  out.Uint(UINT64_MAX);
  out.Int(INT64_MIN);
  out.Double(0.1);
  out.Float(1e-5f);
  out.Float(0.1f);
  out.Double(std::numeric_limits<double>::infinity());
  out.Float(std::nanf(""));
  out.Bool(true);
  out.Null();
  out.BeginArray();
  out.EndArray();
  out.EndArray();
  out.Key("é");
  out.String("😀\xFF\xE2\x82!");
  out.Key("o");
  out.BeginObject();
  out.EndObject();
  out.EndObject();
  const std::string text = out.Take();
  EXPECT_EQ(
      text,
      "{\"a\\\"\\\\\\n\\u001f\":[18446744073709551615,-9223372036854775808,0.1,1e-05,0.1,null,null,true,null,"
      "[]],\"é\":\"😀\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD!\",\"o\":{}}");
  EXPECT_NO_THROW(Parse(text));
  EXPECT_EQ((*Parse(text).AsObject())[0].first, "a\"\\\n\x1f");
}

}  // namespace
}  // namespace selfedit
