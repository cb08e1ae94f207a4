#include "router/api/json.h"

#include "absl/strings/str_cat.h"
#include "router/chat/python_json.h"

namespace baleen::router {

absl::StatusOr<Json> ParseBody(absl::string_view text) {
  auto json = chat::ParseJson(text);
  if (!json.ok())
    return absl::InvalidArgumentError(
        absl::StrCat("the body is not valid JSON: ", json.status().message()));
  if (!json->is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace baleen::router
