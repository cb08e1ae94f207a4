#include "router/api/field_reader.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "router/api/api_error.h"

namespace baleen::router {
namespace {

constexpr size_t kMaxUnknown = 16;

}  // namespace

FieldReader::FieldReader(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  BALEEN_CHECK(object.is_object());
}

const Json* FieldReader::Find(absl::string_view name) {
  std::string key(name);
  const auto it = object_.find(key);
  asked_.insert(std::move(key));
  if (!status_.ok() || it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

void FieldReader::Fail(absl::string_view name, absl::string_view message, absl::string_view code) {
  if (status_.ok()) status_ = BadParam(absl::StrCat(prefix_, name), message, code);
}

std::optional<bool> FieldReader::Bool(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  Fail(name, "must be true or false");
  return std::nullopt;
}

std::optional<int64_t> FieldReader::Int(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number_unsigned()) return static_cast<int64_t>(value->get<uint64_t>());
  if (value->is_number_integer()) return value->get<int64_t>();
  if (value->is_number_float()) {
    const double d = value->get<double>();
    if (d == std::floor(d) && std::abs(d) < 9e15) return static_cast<int64_t>(d);
  }
  Fail(name, "must be an integer");
  return std::nullopt;
}

std::optional<double> FieldReader::Number(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number() && std::isfinite(value->get<double>())) return value->get<double>();
  Fail(name, "must be a finite number");
  return std::nullopt;
}

std::optional<std::string> FieldReader::String(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  Fail(name, "must be a string");
  return std::nullopt;
}

const Json* FieldReader::Object(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr || value->is_object()) return value;
  Fail(name, "must be an object");
  return nullptr;
}

const Json* FieldReader::Array(absl::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr || value->is_array()) return value;
  Fail(name, "must be an array");
  return nullptr;
}

const Json* FieldReader::Any(absl::string_view name) { return Find(name); }

void FieldReader::Ignore(std::initializer_list<absl::string_view> names) {
  for (absl::string_view name : names) asked_.emplace(name);
}

void FieldReader::Refuse(std::initializer_list<absl::string_view> names) {
  for (absl::string_view name : names) {
    const Json* value = Find(name);
    if (value == nullptr || *value == false || *value == "" || value->empty()) continue;
    Fail(name, "is not supported", "unsupported_value");
  }
}

std::vector<std::string> FieldReader::UnknownFields() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : object_.items())
    if (unknown.size() < kMaxUnknown && !asked_.contains(key)) unknown.push_back(key);
  return unknown;
}

}  // namespace baleen::router
