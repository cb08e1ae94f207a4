#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/chat/chat_encoder.h"
#include "router/chat/markers.h"

namespace baleen::chat {
namespace {

constexpr char kToolsBefore[] = "## Tools\nYou have access to the following tools:\n";
// The doubled braces are part of the text.
constexpr char kToolsAfter[] = R"(
IMPORTANT: ALWAYS adhere to this exact format for tool use:
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>{{additional_tool_calls}}<｜tool▁calls▁end｜>

Where:

- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces
)";

void AppendToolList(const std::vector<Tool>& tools, std::string* out) {
  for (const Tool& tool : tools) {
    absl::StrAppend(out, "\n### ", tool.name, "\nDescription: ", tool.description);
    absl::StrAppend(out, "\n\nParameters: ", tool.parameters_json, "\n");
  }
}

bool IsSystem(const ChatMessage& m) {
  return m.role == Role::kSystem || m.role == Role::kDeveloper;
}

// All system messages, wherever they stand, then the tools.
std::string SystemText(const ChatPrompt& prompt) {
  std::string text, tools;
  bool first = true;
  AppendToolList(prompt.tools, &tools);
  for (const ChatMessage& message : prompt.messages) {
    if (!IsSystem(message)) continue;
    absl::StrAppend(&text, first ? "" : "\n\n", message.content);
    first = false;
    AppendToolList(message.tools, &tools);
  }
  if (!tools.empty()) absl::StrAppend(&text, "\n\n", kToolsBefore, tools, kToolsAfter);
  return text;
}

absl::string_view AfterThinking(absl::string_view content) {
  const size_t end = content.find(kThinkEnd);
  return end == absl::string_view::npos ? content : content.substr(end + sizeof(kThinkEnd) - 1);
}

class V31Encoder {
 public:
  explicit V31Encoder(const ChatPrompt& prompt) : prompt_(prompt) {}

  EncodedPrompt Encode() {
    encoded_.text = absl::StrCat(kBos, SystemText(prompt_));
    for (size_t i = 0; i < prompt_.messages.size(); ++i) {
      AppendMessage(prompt_.messages[i],
                    prompt_.continue_final_message && i + 1 == prompt_.messages.size());
    }
    if (previous_ == Role::kUser) OpenAnswer(prompt_.thinking);
    return std::move(encoded_);
  }

 private:
  void OpenAnswer(bool thinking) {
    absl::StrAppend(&encoded_.text, kAssistant, thinking ? kThinkBegin : kThinkEnd);
    encoded_.starts_in_reasoning = thinking;
  }

  void AppendMessage(const ChatMessage& message, bool continued) {
    if (IsSystem(message)) return;
    switch (message.role) {
      case Role::kUser:
        absl::StrAppend(&encoded_.text, kUser, message.content);
        break;
      case Role::kTool:
        absl::StrAppend(&encoded_.text, kToolOutputBegin, message.content, kToolOutputEnd);
        break;
      case Role::kAssistant:
        AppendAssistant(message, continued);
        break;
      case Role::kSystem:
      case Role::kDeveloper:
        break;
    }
    previous_ = message.role;
  }

  void AppendAssistant(const ChatMessage& message, bool continued) {
    if (previous_ == Role::kUser) OpenAnswer(continued && prompt_.thinking);
    if (!message.tool_calls.empty()) {
      AppendCalls(message);
    } else if (previous_ == Role::kTool) {
      encoded_.text.append(message.content);
    } else {
      absl::StrAppend(&encoded_.text, AfterThinking(message.content));
    }
    if (continued) return;
    encoded_.text.append(kEos);
    encoded_.starts_in_reasoning = false;
  }

  void AppendCalls(const ChatMessage& message) {
    absl::StrAppend(&encoded_.text, message.content, kToolCallsBegin);
    for (const ToolCall& call : message.tool_calls) {
      absl::StrAppend(&encoded_.text, kToolCallBegin, call.name, kToolSep, call.arguments_json,
                      kToolCallEnd);
    }
    encoded_.text.append(kToolCallsEnd);
  }

  const ChatPrompt& prompt_;
  Role previous_ = Role::kSystem;  // of the message before, system messages aside
  EncodedPrompt encoded_;
};

absl::Status CheckNoResponseFormat(const ChatPrompt& prompt) {
  bool given = !prompt.response_format.empty();
  for (const ChatMessage& message : prompt.messages) given |= !message.response_format.empty();
  if (!given) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "response_format: this model's chat format has no place for it");
}

}  // namespace

absl::StatusOr<EncodedPrompt> EncodeV31(const ChatPrompt& prompt) {
  BALEEN_RETURN_IF_ERROR(CheckNoResponseFormat(prompt));
  return V31Encoder(prompt).Encode();
}

absl::StatusOr<EncodedPrompt> EncodeChat(const ChatPrompt& prompt, ChatStyle style) {
  switch (style) {
    case ChatStyle::kV32:
      return EncodeV32(prompt);
    case ChatStyle::kV31:
      return EncodeV31(prompt);
  }
  return absl::InternalError("no such chat style");
}

}  // namespace baleen::chat
