// A strict JSON reader (RFC 8259, UTF-8 only, no duplicate keys) with limits, and a writer.
// Header text comes from files that nobody vouches for: nothing is accepted that two parsers could read
// differently.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace selfedit {

struct JsonLimits {
  size_t depth = 32;
  size_t string_bytes = 10 << 20;
  /// Keys of one object.
  size_t keys = 100'000;
  /// Elements of one array.
  size_t elements = SIZE_MAX;
  /// Values of the whole text; bounds memory (about 50 bytes each).
  size_t values = 2'000'000;
};

/// One JSON value. Integers keep their exact value when they fit into 64 bits.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the order of the text

  Json() = default;
  template <typename T>
  explicit Json(T value) : value_(std::move(value)) {}

  bool IsNull() const { return std::holds_alternative<std::monostate>(value_); }
  /// Null unless the value has that type.
  const bool* AsBool() const { return std::get_if<bool>(&value_); }
  const std::string* AsString() const { return std::get_if<std::string>(&value_); }
  const Array* AsArray() const { return std::get_if<Array>(&value_); }
  const Object* AsObject() const { return std::get_if<Object>(&value_); }
  /// True and the value for a number written without fraction or exponent that is in range.
  bool AsUint(uint64_t* out) const;
  bool AsInt(int64_t* out) const;
  /// True and the (nearest) value for any number.
  bool AsNumber(double* out) const;
  /// Member of an object by name, or null. Linear: meant for small objects.
  const Json* Find(std::string_view key) const;
  /// "null", "a boolean", "a number", "a string", "an array" or "an object", for messages.
  const char* TypeName() const;

 private:
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value_;
};

/// Parses one JSON text; white space around it is allowed, anything else after it is not.
/// Throws FILE_FORMAT, naming `source`, the byte position and what was expected.
Json ParseJson(std::string_view text, const std::string& source, const JsonLimits& limits = {});

using JsonMember = std::function<void(std::string key, Json value)>;

/// Parses a text that is one JSON object, handing over each member as it is read, so that what a member costs
/// can be refused or put in a smaller form before the next. Throws as ParseJson does, except that keys which
/// occur twice in this outermost object are for the caller to find.
void ParseJsonMembers(std::string_view text, const std::string& source, const JsonLimits& limits,
                      const JsonMember& member);

/// Writes compact JSON, keeping track of commas.
class JsonWriter {
 public:
  void BeginObject() { Open('{'); }
  void EndObject() { Close('}'); }
  void BeginArray() { Open('['); }
  void EndArray() { Close(']'); }
  void Key(std::string_view key);
  void String(std::string_view value);
  void Uint(uint64_t value);
  void Int(int64_t value);
  /// Shortest text that reads back to the same value of that type; null for NaN and infinities, which JSON
  /// lacks.
  void Double(double value);
  void Float(float value);
  void Bool(bool value);
  void Null();
  std::string Take() { return std::move(text_); }

 private:
  void Separate();
  void Open(char bracket);
  void Close(char bracket);

  std::string text_;
  bool first_ = true;
};

/// Appends `value` as a JSON string. Bytes that are not UTF-8 become U+FFFD, so the result is always valid
/// JSON.
void AppendJsonString(std::string_view value, std::string* out);
/// A name from a file for use in a message: quoted, escaped, cut to 200 bytes.
std::string QuoteForMessage(std::string_view name);
bool IsValidUtf8(std::string_view text);
/// Length of the valid UTF-8 sequence at the start of `text` (1 to 4), or 0 where there is none.
size_t Utf8SequenceLength(std::string_view text);

}  // namespace selfedit
