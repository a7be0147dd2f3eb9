#include <charconv>
#include <cmath>

#include "format/json.h"

namespace selfedit {

void JsonWriter::Separate() {
  if (!first_) text_.push_back(',');
  first_ = false;
}

void JsonWriter::Open(char bracket) {
  Separate();
  text_.push_back(bracket);
  first_ = true;
}

void JsonWriter::Close(char bracket) {
  text_.push_back(bracket);
  first_ = false;
}

void JsonWriter::Key(std::string_view key) {
  Separate();
  AppendJsonString(key, &text_);
  text_.push_back(':');
  first_ = true;  // no comma before the value
}

void JsonWriter::String(std::string_view value) {
  Separate();
  AppendJsonString(value, &text_);
}

namespace {
template <typename T>
void AppendNumber(T value, std::string* text) {
  char digits[32];
  text->append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}
}  // namespace

void JsonWriter::Uint(uint64_t value) {
  Separate();
  AppendNumber(value, &text_);
}

void JsonWriter::Int(int64_t value) {
  Separate();
  AppendNumber(value, &text_);
}

void JsonWriter::Double(double value) {
  if (!std::isfinite(value)) return Null();
  Separate();
  AppendNumber(value, &text_);
}

void JsonWriter::Float(float value) {
  if (!std::isfinite(value)) return Null();
  Separate();
  AppendNumber(value, &text_);
}

void JsonWriter::Bool(bool value) {
  Separate();
  text_.append(value ? "true" : "false");
}

void JsonWriter::Null() {
  Separate();
  text_.append("null");
}

}  // namespace selfedit
