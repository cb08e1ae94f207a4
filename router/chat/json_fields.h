#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace baleen::chat {

// InvalidArgument "path: what".
inline absl::Status BadField(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// One member of a client's JSON object with its path for messages. A null member is absent.
class Field {
 public:
  // `parent` must be an object and outlive this.
  Field(const nlohmann::ordered_json& parent, absl::string_view parent_path, absl::string_view name)
      : path_(parent_path.empty() ? std::string(name) : absl::StrCat(parent_path, ".", name)) {
    const auto it = parent.find(std::string(name));
    if (it != parent.end() && !it->is_null()) value_ = &*it;
  }

  const std::string& path() const { return path_; }
  bool present() const { return value_ != nullptr; }
  const nlohmann::ordered_json& value() const { return *value_; }
  absl::Status Bad(absl::string_view what) const { return BadField(path_, what); }

  // The value, or `absent` if there is none; an error if it has another type.
  absl::StatusOr<bool> Bool(bool absent) const {
    if (!present()) return absent;
    if (!value_->is_boolean()) return Bad("must be true or false");
    return value_->get<bool>();
  }
  absl::StatusOr<std::string> String(absl::string_view absent) const {
    if (!present()) return std::string(absent);
    if (!value_->is_string()) return Bad("must be a string");
    return value_->get<std::string>();
  }

 private:
  std::string path_;
  const nlohmann::ordered_json* value_ = nullptr;
};

}  // namespace baleen::chat
