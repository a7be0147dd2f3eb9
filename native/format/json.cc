#include "format/json.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "format/error.h"

namespace selfedit {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& source, const JsonLimits& limits)
      : text_(text), source_(source), limits_(limits) {}

  Json Parse() {
    Json value = Value(0);
    ExpectEnd();
    return value;
  }

  void ParseMembers(const JsonMember& member) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != '{') FailFound("'{'");
    Members(0, member);
    ExpectEnd();
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw Error("FILE_FORMAT", source_ + ": invalid JSON at byte " + std::to_string(at_) + ": " + what);
  }
  [[noreturn]] void FailFound(const char* expected) const {
    if (at_ >= text_.size()) Fail(std::string("expected ") + expected + ", found the end");
    Fail(std::string("expected ") + expected + ", found " + QuoteForMessage(text_.substr(at_, 1)));
  }

  void ExpectEnd() {
    SkipSpace();
    if (at_ < text_.size()) Fail("text after the value; expected the end");
  }

  void SkipSpace() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool TakeWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json Value(size_t depth) {
    if (++values_ > limits_.values) Fail("more than " + std::to_string(limits_.values) + " values");
    SkipSpace();
    if (at_ >= text_.size()) FailFound("a value");
    switch (text_[at_]) {
      case '{':
        return Object(depth);
      case '[':
        return Array(depth);
      case '"':
        return Json(String());
      case 't':
        if (TakeWord("true")) return Json(true);
        break;
      case 'f':
        if (TakeWord("false")) return Json(false);
        break;
      case 'n':
        if (TakeWord("null")) return Json();
        break;
      default:
        return Number();
    }
    FailFound("a value");
  }

  void Enter(size_t depth) {
    if (depth >= limits_.depth) Fail("nested deeper than " + std::to_string(limits_.depth));
    ++at_;
    SkipSpace();
  }

  Json Array(size_t depth) {
    Enter(depth);
    Json::Array array;
    if (Take(']')) return Json(std::move(array));
    while (true) {
      if (array.size() >= limits_.elements) {
        Fail("more than " + std::to_string(limits_.elements) + " elements in an array");
      }
      array.push_back(Value(depth + 1));
      SkipSpace();
      if (Take(']')) return Json(std::move(array));
      if (!Take(',')) FailFound("',' or ']'");
    }
  }

  /// Hands each member of the object that begins here to `member` as soon as it is read.
  template <typename Member>
  void Members(size_t depth, Member member) {
    Enter(depth);
    if (Take('}')) return;
    for (size_t count = 1;; ++count) {
      SkipSpace();
      if (at_ >= text_.size() || text_[at_] != '"') FailFound("a key in quotes");
      if (count > limits_.keys) Fail("more than " + std::to_string(limits_.keys) + " keys in an object");
      std::string key = String();
      SkipSpace();
      if (!Take(':')) FailFound("':'");
      member(std::move(key), Value(depth + 1));
      SkipSpace();
      if (Take('}')) return;
      if (!Take(',')) FailFound("',' or '}'");
    }
  }

  Json Object(size_t depth) {
    Json::Object object;
    Members(depth,
            [&](std::string key, Json value) { object.emplace_back(std::move(key), std::move(value)); });
    RefuseDuplicates(object);
    return Json(std::move(object));
  }

  // By sorting, not hashing: keys made to collide must not cost quadratic time.
  void RefuseDuplicates(const Json::Object& object) const {
    std::vector<std::string_view> keys;
    keys.reserve(object.size());
    for (const auto& member : object) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      Fail("key " + QuoteForMessage(*twice) + " occurs twice in the object that ends here");
  }

  uint32_t Hex4() {
    uint32_t value = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4) {
      Fail("expected four hexadecimal digits after \\u");
    }
    at_ += 4;
    return value;
  }

  void Escape(std::string* out) {
    if (at_ >= text_.size()) FailFound("an escape");
    const char c = text_[at_++];
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out->push_back(c);
        return;
      case 'b':
        out->push_back('\b');
        return;
      case 'f':
        out->push_back('\f');
        return;
      case 'n':
        out->push_back('\n');
        return;
      case 'r':
        out->push_back('\r');
        return;
      case 't':
        out->push_back('\t');
        return;
      case 'u':
        break;
      default:
        --at_;
        FailFound("one of \" \\ / b f n r t u after a backslash");
    }
    uint32_t code = Hex4();
    if (code >= 0xD800 && code <= 0xDFFF) {
      if (code >= 0xDC00 || !TakeWord("\\u")) Fail("unpaired surrogate");
      const uint32_t low = Hex4();
      if (low < 0xDC00 || low > 0xDFFF) Fail("unpaired surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    const auto push = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      push(code);
    } else if (code < 0x800) {
      push(0xC0 | (code >> 6));
      push(0x80 | (code & 63));
    } else if (code < 0x10000) {
      push(0xE0 | (code >> 12));
      push(0x80 | ((code >> 6) & 63));
      push(0x80 | (code & 63));
    } else {
      push(0xF0 | (code >> 18));
      push(0x80 | ((code >> 12) & 63));
      push(0x80 | ((code >> 6) & 63));
      push(0x80 | (code & 63));
    }
  }

  std::string String() {
    ++at_;  // the opening quote
    std::string out;
    while (true) {
      // Copy a run of plain characters at once.
      const size_t start = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
             static_cast<uint8_t>(text_[at_]) >= 0x20) {
        const size_t length = Utf8SequenceLength(text_.substr(at_));
        if (length == 0) Fail("string is not valid UTF-8");
        at_ += length;
      }
      out.append(text_.substr(start, at_ - start));
      if (out.size() > limits_.string_bytes) {
        Fail("string longer than " + std::to_string(limits_.string_bytes) + " bytes");
      }
      if (Take('"')) return out;
      if (Take('\\')) {
        Escape(&out);
      } else if (at_ >= text_.size()) {
        FailFound("'\"'");
      } else {
        Fail("control character in a string; expected an escape");
      }
    }
  }

  bool Digits() {
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > start;
  }

  Json Number() {
    const size_t start = at_;
    const bool negative = Take('-');
    if (!Take('0') && !Digits()) FailFound("a value");
    bool integer = true;
    if (Take('.')) {
      integer = false;
      if (!Digits()) FailFound("a digit");
    }
    if (Take('e') || Take('E')) {
      integer = false;
      if (!Take('+')) Take('-');
      if (!Digits()) FailFound("a digit");
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (integer) {
      uint64_t whole = 0;
      int64_t below = 0;
      if (!negative && std::from_chars(first, last, whole).ec == std::errc()) return Json(whole);
      if (negative && std::from_chars(first, last, below).ec == std::errc()) return Json(below);
    }
    double value = 0;
    if (std::from_chars(first, last, value).ec != std::errc()) {
      at_ = start;
      Fail("number outside the range of a double");
    }
    return Json(value);
  }

  std::string_view text_;
  const std::string& source_;
  const JsonLimits& limits_;
  size_t at_ = 0;
  size_t values_ = 0;
};

}  // namespace

bool Json::AsUint(uint64_t* out) const {
  if (const auto* value = std::get_if<uint64_t>(&value_)) return *out = *value, true;
  if (const auto* value = std::get_if<int64_t>(&value_); value && *value >= 0) {
    return *out = static_cast<uint64_t>(*value), true;
  }
  return false;
}

bool Json::AsInt(int64_t* out) const {
  if (const auto* value = std::get_if<int64_t>(&value_)) return *out = *value, true;
  if (const auto* value = std::get_if<uint64_t>(&value_);
      value && *value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return *out = static_cast<int64_t>(*value), true;
  }
  return false;
}

bool Json::AsNumber(double* out) const {
  if (const auto* value = std::get_if<double>(&value_)) return *out = *value, true;
  if (const auto* value = std::get_if<uint64_t>(&value_)) return *out = static_cast<double>(*value), true;
  if (const auto* value = std::get_if<int64_t>(&value_)) return *out = static_cast<double>(*value), true;
  return false;
}

const Json* Json::Find(std::string_view key) const {
  if (const Object* object = AsObject()) {
    for (const auto& [name, value] : *object) {
      if (name == key) return &value;
    }
  }
  return nullptr;
}

const char* Json::TypeName() const {
  static constexpr const char* kNames[] = {"null",     "a boolean", "a number", "a number",
                                           "a number", "a string",  "an array", "an object"};
  return kNames[value_.index()];
}

Json ParseJson(std::string_view text, const std::string& source, const JsonLimits& limits) {
  return Parser(text, source, limits).Parse();
}

void ParseJsonMembers(std::string_view text, const std::string& source, const JsonLimits& limits,
                      const JsonMember& member) {
  Parser(text, source, limits).ParseMembers(member);
}

}  // namespace selfedit
