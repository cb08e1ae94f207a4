#include "router/chat/chat_request.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/chat/conversation.h"
#include "router/chat/json_fields.h"
#include "router/chat/message_parser.h"

namespace baleen::chat {
namespace {

using nlohmann::ordered_json;

// A switch that may be given under several names.
class Switch {
 public:
  // Notes the value of one name; an error if another name says otherwise.
  absl::Status Set(const Field& field, bool value) {
    if (value_.has_value() && *value_ != value) {
      return field.Bad(absl::StrCat("contradicts ", path_));
    }
    value_ = value;
    path_ = field.path();
    return absl::OkStatus();
  }
  absl::Status SetIfPresent(const Field& field) {
    if (!field.present()) return absl::OkStatus();
    BALEEN_ASSIGN_OR_RETURN(const bool value, field.Bool(false));
    return Set(field, value);
  }
  bool value_or(bool absent) const { return value_.value_or(absent); }

 private:
  std::optional<bool> value_;
  std::string path_;
};

// DeepSeek's own form: "thinking": {"type": "enabled"}.
absl::Status ParseThinkingObject(const Field& thinking, Switch* on) {
  if (!thinking.present()) return absl::OkStatus();
  if (!thinking.value().is_object()) return thinking.Bad("must be an object");
  const Field type(thinking.value(), thinking.path(), "type");
  BALEEN_ASSIGN_OR_RETURN(const std::string name, type.String(""));
  if (name != "enabled" && name != "disabled") return type.Bad("must be enabled or disabled");
  return on->Set(type, name == "enabled");
}

absl::Status ParseModes(const ordered_json& body, ChatPrompt* prompt) {
  Switch thinking;
  const Field kwargs(body, "", "chat_template_kwargs");
  if (kwargs.present()) {
    if (!kwargs.value().is_object()) return kwargs.Bad("must be an object");
    const auto member = [&](absl::string_view name) {
      return Field(kwargs.value(), kwargs.path(), name);
    };
    BALEEN_RETURN_IF_ERROR(thinking.SetIfPresent(member("thinking")));
    BALEEN_RETURN_IF_ERROR(thinking.SetIfPresent(member("enable_thinking")));
    BALEEN_ASSIGN_OR_RETURN(prompt->drop_thinking, member("drop_thinking").Bool(true));
  }
  BALEEN_RETURN_IF_ERROR(ParseThinkingObject(Field(body, "", "thinking"), &thinking));
  prompt->thinking = thinking.value_or(false);
  return absl::OkStatus();
}

absl::StatusOr<bool> MayCallTools(const Field& choice) {
  if (!choice.present()) return true;
  if (choice.value() == "auto") return true;
  if (choice.value() == "none") return false;
  return choice.Bad("only \"auto\" and \"none\" are supported");
}

absl::Status ParseToolFields(const ordered_json& body, ChatPrompt* prompt) {
  for (const char* old : {"functions", "function_call"}) {
    const Field field(body, "", old);
    if (field.present()) return field.Bad("not supported; use tools and tool_choice");
  }
  const Field tools(body, "", "tools");
  if (tools.present()) {
    BALEEN_ASSIGN_OR_RETURN(prompt->tools, ParseTools(tools.value(), tools.path()));
  }
  BALEEN_ASSIGN_OR_RETURN(const bool may_call, MayCallTools(Field(body, "", "tool_choice")));
  if (!may_call) {
    prompt->tools.clear();
    for (ChatMessage& message : prompt->messages) message.tools.clear();
  }
  const Field parallel(body, "", "parallel_tool_calls");
  return parallel.Bool(true).status();  // without effect
}

absl::Status ParseMessages(const ordered_json& body, ChatPrompt* prompt) {
  const Field messages(body, "", "messages");
  if (!messages.present()) return messages.Bad("required");
  if (!messages.value().is_array()) return messages.Bad("must be a list");
  const size_t count = messages.value().size();
  for (size_t i = 0; i < count; ++i) {
    const std::string path = absl::StrCat("messages[", i, "]");
    BALEEN_ASSIGN_OR_RETURN(ChatMessage message, ParseMessage(messages.value()[i], path));
    prompt->messages.push_back(std::move(message));
    const Field prefix(messages.value()[i], path, "prefix");
    BALEEN_ASSIGN_OR_RETURN(const bool is_prefix, prefix.Bool(false));
    if (is_prefix && i + 1 != count) return prefix.Bad("only the last message can be continued");
    if (is_prefix) prompt->continue_final_message = true;
  }
  return absl::OkStatus();
}

absl::Status ParseContinuation(const ordered_json& body, ChatPrompt* prompt) {
  BALEEN_ASSIGN_OR_RETURN(const bool continues,
                          Field(body, "", "continue_final_message").Bool(false));
  if (continues) prompt->continue_final_message = true;
  const Field add(body, "", "add_generation_prompt");
  BALEEN_ASSIGN_OR_RETURN(const bool adds, add.Bool(true));
  if (!adds && !prompt->continue_final_message) {
    return add.Bad("can be false only together with continue_final_message");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChatPrompt> ParseChatMessages(const ordered_json& body) {
  if (!body.is_object()) return absl::InvalidArgumentError("body: must be a JSON object");
  ChatPrompt prompt;
  BALEEN_RETURN_IF_ERROR(ParseMessages(body, &prompt));
  BALEEN_RETURN_IF_ERROR(ParseContinuation(body, &prompt));
  BALEEN_RETURN_IF_ERROR(ParseModes(body, &prompt));
  BALEEN_RETURN_IF_ERROR(ParseToolFields(body, &prompt));
  const Field format(body, "", "response_format");
  if (format.present()) {
    BALEEN_ASSIGN_OR_RETURN(prompt.response_format,
                            ParseResponseFormat(format.value(), format.path()));
  }
  BALEEN_RETURN_IF_ERROR(CheckConversation(&prompt));
  return prompt;
}

}  // namespace baleen::chat
