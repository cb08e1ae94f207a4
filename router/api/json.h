#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::router {

// Key order matters in tool schemas.
using Json = nlohmann::ordered_json;

// A request body, which must be a JSON object. InvalidArgument says what is wrong and at which
// byte; invalid UTF-8, NaN, numbers out of range and too deep nesting are errors of the text.
absl::StatusOr<Json> ParseBody(absl::string_view text);

// One line; bytes that are not UTF-8 become U+FFFD.
std::string Dump(const Json& json);

}  // namespace baleen::router
