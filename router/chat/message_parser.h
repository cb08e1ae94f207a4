#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"
#include "router/chat/chat_message.h"

namespace baleen::chat {

// Parts of ParseChatMessages; `path` is where the value stands in the request.

// One element of `messages`; its place in the conversation is not checked.
absl::StatusOr<ChatMessage> ParseMessage(const nlohmann::ordered_json& json,
                                         absl::string_view path);

// A list of {"type": "function", "function": {...}}.
absl::StatusOr<std::vector<Tool>> ParseTools(const nlohmann::ordered_json& json,
                                             absl::string_view path);

// The JSON text to show to the model, empty for {"type": "text"}.
absl::StatusOr<std::string> ParseResponseFormat(const nlohmann::ordered_json& json,
                                                absl::string_view path);

}  // namespace baleen::chat
