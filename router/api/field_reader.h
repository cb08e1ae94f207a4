#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "router/api/json.h"

namespace baleen::router {

// Reads the fields of one JSON object with their types checked. null counts as absent. The first
// error is kept and names the field; after it everything reads as absent, so a caller may read all
// fields and look at status() once. Fields never asked for are unknown.
//
// `object` must be an object and outlive the reader.
class FieldReader {
 public:
  explicit FieldReader(const Json& object, std::string prefix = "");

  std::optional<bool> Bool(absl::string_view name);
  std::optional<int64_t> Int(absl::string_view name);    // 3.0 is an integer too
  std::optional<double> Number(absl::string_view name);  // finite
  std::optional<std::string> String(absl::string_view name);
  const Json* Object(absl::string_view name);  // null when absent
  const Json* Array(absl::string_view name);
  const Json* Any(absl::string_view name);
  // Known, but without effect here.
  void Ignore(std::initializer_list<absl::string_view> names);

  // Known, but not offered: an error unless absent, false or empty.
  void Refuse(std::initializer_list<absl::string_view> names);

  void Fail(absl::string_view name, absl::string_view message, absl::string_view code = "");
  const absl::Status& status() const { return status_; }
  // The first few of them.
  std::vector<std::string> UnknownFields() const;

 private:
  const Json* Find(absl::string_view name);

  const Json& object_;
  const std::string prefix_;
  std::set<std::string> asked_;
  absl::Status status_;
};

}  // namespace baleen::router
