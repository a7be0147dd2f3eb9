// JavaScript values in and out, checked for memory's sake; manners are TypeScript's.
#pragma once
#include <napi.h>

#include <span>
#include <string>
#include <vector>

#include "core/types.h"

namespace selfedit::addon {

[[noreturn]] inline void Invalid(const std::string& name, const char* expected) {
  throw Error("INPUT_INVALID", "\"" + name + "\" must be " + expected);
}

inline Napi::Value Member(const Napi::Object& object, const char* name) { return object.Get(name); }

inline double Number(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) Invalid(name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

inline int64_t Integer(const Napi::Object& object, const char* name) {
  const double value = Number(object, name);
  if (!(value >= -9e15 && value <= 9e15) || value != static_cast<double>(static_cast<int64_t>(value))) {
    Invalid(name, "an integer");
  }
  return static_cast<int64_t>(value);
}

// An argument that counts or chooses something; -1 stands for whatever is not an integer from 0.
inline int64_t Index(const Napi::Value& value) {
  const double n = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  return n >= 0 && n <= 9e15 && n == static_cast<double>(static_cast<int64_t>(n)) ? static_cast<int64_t>(n)
                                                                                  : -1;
}

inline bool Boolean(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsBoolean()) Invalid(name, "true or false");
  return value.As<Napi::Boolean>().Value();
}

// Heads within which rows are permuted; 0: they are not.
inline int64_t PermutedHeads(const Napi::Object& object, int64_t rows) {
  const int64_t heads = Integer(object, "permutedHeads");
  if (heads < 0 || (heads > 0 && rows % (2 * heads) != 0))
    Invalid("permutedHeads", "0, or heads of even size");
  return heads;
}

inline std::string Text(const Napi::Value& value, const char* name) {
  if (!value.IsString()) Invalid(name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

inline uint64_t Key(const Napi::Value& value, const char* name) {
  if (!value.IsBigInt()) Invalid(name, "a bigint");
  bool lossless = false;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);  // keys wrap at 64 bits
}

inline Napi::Object Object(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) Invalid(name, "an object");
  return value.As<Napi::Object>();
}

inline Napi::Array List(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) Invalid(name, "an array");
  return value.As<Napi::Array>();
}

// T and its typed array.
template <typename T>
struct TypedArrayOf;
template <>
struct TypedArrayOf<int32_t> {
  static constexpr napi_typedarray_type kType = napi_int32_array;
  static constexpr const char* kName = "an Int32Array";
};
template <>
struct TypedArrayOf<uint8_t> {
  static constexpr napi_typedarray_type kType = napi_uint8_array;
  static constexpr const char* kName = "a Uint8Array";
};
template <>
struct TypedArrayOf<float> {
  static constexpr napi_typedarray_type kType = napi_float32_array;
  static constexpr const char* kName = "a Float32Array";
};
template <>
struct TypedArrayOf<double> {
  static constexpr napi_typedarray_type kType = napi_float64_array;
  static constexpr const char* kName = "a Float64Array";
};
template <>
struct TypedArrayOf<uint64_t> {
  static constexpr napi_typedarray_type kType = napi_biguint64_array;
  static constexpr const char* kName = "a BigUint64Array";
};

// A typed array where it lies; it stays there as long as no JavaScript runs.
template <typename T>
std::span<const T> View(const Napi::Value& value, const char* name) {
  napi_typedarray_type type{};
  size_t count = 0;
  void* data = nullptr;  // of the array's own part of its buffer
  if (!value.IsTypedArray() ||
      napi_get_typedarray_info(value.Env(), value, &type, &count, &data, nullptr, nullptr) != napi_ok ||
      type != TypedArrayOf<T>::kType) {
    Invalid(name, TypedArrayOf<T>::kName);
  }
  return {static_cast<const T*>(data), count};
}

template <typename T>
std::vector<T> Values(const Napi::Value& value, const char* name) {
  const std::span<const T> values = View<T>(value, name);
  return std::vector<T>(values.begin(), values.end());
}

template <typename T>
std::vector<T> Values(const Napi::Object& object, const char* name) {
  return Values<T>(object.Get(name), name);
}

template <typename From>
Napi::Float32Array Floats(Napi::Env env, const From* values, size_t count) {
  Napi::Float32Array array = Napi::Float32Array::New(env, count);
  for (size_t i = 0; i < count; ++i) array[i] = static_cast<float>(values[i]);
  return array;
}
template <typename From>
Napi::Float32Array Floats(Napi::Env env, const std::vector<From>& values) {
  return Floats(env, values.data(), values.size());
}
inline Napi::Int32Array Ints(Napi::Env env, const std::vector<int32_t>& values) {
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

inline Ragged RaggedFrom(const Napi::Object& object) {
  Ragged rows;
  rows.tokens = Values<int32_t>(object, "tokens");
  rows.offsets = Values<int32_t>(object, "offsets");
  if (rows.offsets.empty()) Invalid("offsets", "an Int32Array of rows + 1 entries");
  for (size_t i = 1; i < rows.offsets.size(); ++i) {
    if (rows.offsets[i] < rows.offsets[i - 1]) Invalid("offsets", "ascending");
  }
  if (rows.offsets.front() != 0 || rows.offsets.back() != static_cast<int64_t>(rows.tokens.size())) {
    Invalid("offsets", "from 0 to the number of tokens");
  }
  return rows;
}

ModelConfig ConfigFrom(const Napi::Object& object);
Napi::Object ConfigObject(Napi::Env env, const ModelConfig& config);

}  // namespace selfedit::addon
