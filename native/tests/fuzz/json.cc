// libFuzzer target: any bytes as JSON. What is accepted can be written, and what is written is accepted.
#include <cmath>

#include "use_file.h"

namespace {

using selfedit::Json;
using selfedit::JsonWriter;

void Write(const Json& value, JsonWriter* out) {
  uint64_t whole = 0;
  int64_t below = 0;
  double number = 0;
  if (value.IsNull()) return out->Null();
  if (value.AsBool()) return out->Bool(*value.AsBool());
  if (value.AsString()) return out->String(*value.AsString());
  if (value.AsUint(&whole)) return out->Uint(whole);
  if (value.AsInt(&below)) return out->Int(below);
  if (value.AsNumber(&number)) return out->Double(number);
  if (value.AsArray()) {
    out->BeginArray();
    for (const Json& element : *value.AsArray()) Write(element, out);
    return out->EndArray();
  }
  out->BeginObject();
  for (const auto& [key, member] : *value.AsObject()) {
    out->Key(key);
    Write(member, out);
  }
  out->EndObject();
}

std::string Rewrite(std::string_view text) {
  JsonWriter out;
  Write(selfedit::ParseJson(text, "fuzz.json"), &out);
  return out.Take();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string once;
  try {
    once = Rewrite({reinterpret_cast<const char*>(data), size});
  } catch (const selfedit::Error&) {
    return 0;
  }
  // "-0.0" is written as "-0" and then is an integer: from the second writing on nothing changes any more.
  const std::string twice = Rewrite(once);
  selfedit::fuzz::Require(Rewrite(twice) == twice, "JSON changes when it is written again");
  return 0;
}
