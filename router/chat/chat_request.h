#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "router/chat/chat_message.h"

namespace baleen::chat {

// The conversation in an OpenAI chat request, checked and in order (CheckConversation). `body` is
// the whole request, parsed with ParseJson so that key order and numbers are as sent; null members
// count as absent. Fields read: messages, tools, tool_choice, parallel_tool_calls, response_format,
// chat_template_kwargs {thinking, enable_thinking, drop_thinking}, thinking {type},
// continue_final_message, add_generation_prompt; others are left to the caller.
//
// - content: a string, or a list of {"type": "text"} parts, which are concatenated.
// - tool_choice: "auto" and "none" (the model is not told of the tools); "required" and a named
//   function are refused, because nothing forces the model's output.
// - parallel_tool_calls: a boolean, without effect.
// - response_format: json_object and json_schema are shown to the model; its output is not forced.
// - continue_final_message, or `prefix` on the last message: the answer continues that message.
//
// InvalidArgument otherwise; the message begins with the path of the field and ": ", e.g.
// "messages[2].tool_calls[0].function.arguments: ...".
absl::StatusOr<ChatPrompt> ParseChatMessages(const nlohmann::ordered_json& body);

}  // namespace baleen::chat
