#include "router/chat/message_parser.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/chat/json_fields.h"
#include "router/chat/python_json.h"

namespace baleen::chat {
namespace {

using nlohmann::ordered_json;

absl::StatusOr<Role> ParseRole(const Field& field) {
  if (!field.present()) return field.Bad("required");
  BALEEN_ASSIGN_OR_RETURN(const std::string role, field.String(""));
  if (role == "system") return Role::kSystem;
  if (role == "developer") return Role::kDeveloper;
  if (role == "user") return Role::kUser;
  if (role == "assistant") return Role::kAssistant;
  if (role == "tool") return Role::kTool;
  return field.Bad("must be system, developer, user, assistant or tool");
}

absl::StatusOr<std::string> ParsePart(const ordered_json& part, absl::string_view path) {
  if (!part.is_object()) return BadField(path, "must be an object");
  const Field type(part, path, "type");
  BALEEN_ASSIGN_OR_RETURN(const std::string name, type.String(""));
  if (name != "text") return type.Bad("only \"text\" parts are supported");
  const Field text(part, path, "text");
  if (!text.present()) return text.Bad("required");
  return text.String("");
}

// Nullopt if absent.
absl::StatusOr<std::optional<std::string>> ParseContent(const Field& field) {
  if (!field.present()) return std::optional<std::string>();
  const ordered_json& value = field.value();
  if (value.is_string()) return std::optional(value.get<std::string>());
  if (!value.is_array()) return field.Bad("must be a string or a list of text parts");
  std::string joined;
  for (size_t i = 0; i < value.size(); ++i) {
    BALEEN_ASSIGN_OR_RETURN(const std::string text,
                            ParsePart(value[i], absl::StrCat(field.path(), "[", i, "]")));
    joined += text;
  }
  return std::optional(std::move(joined));
}

// Names stand unescaped between quotes in the prompt.
absl::StatusOr<std::string> ParseFunctionName(const Field& field) {
  if (!field.present()) return field.Bad("required");
  BALEEN_ASSIGN_OR_RETURN(std::string name, field.String(""));
  if (name.empty()) return field.Bad("must not be empty");
  for (const char c : name) {
    if (c == '"' || static_cast<unsigned char>(c) < 0x20) {
      return field.Bad("must not contain quotes or control characters");
    }
  }
  return name;
}

absl::Status CheckFunctionType(const ordered_json& json, absl::string_view path) {
  const Field type(json, path, "type");
  BALEEN_ASSIGN_OR_RETURN(const std::string name, type.String("function"));
  if (name != "function") return type.Bad("only \"function\" is supported");
  return absl::OkStatus();
}

// The `function` object of a tool or of a call; its path goes to `function_path`.
absl::StatusOr<const ordered_json*> FunctionOf(const ordered_json& json, absl::string_view path,
                                               std::string* function_path) {
  if (!json.is_object()) return BadField(path, "must be an object");
  BALEEN_RETURN_IF_ERROR(CheckFunctionType(json, path));
  const Field function(json, path, "function");
  if (!function.present()) return function.Bad("required");
  if (!function.value().is_object()) return function.Bad("must be an object");
  *function_path = function.path();
  return &function.value();
}

constexpr char kNoObject[] = "must be a JSON object or a string that holds one";

// The arguments as JSON text: a client may also send the object itself, or nothing for none.
absl::StatusOr<std::string> ArgumentsText(const Field& field) {
  if (!field.present() || field.value() == "") return "{}";
  if (field.value().is_object()) return DumpPythonJson(field.value());
  if (!field.value().is_string()) return field.Bad(kNoObject);
  return field.value().get<std::string>();
}

absl::Status ParseArguments(const Field& field, ToolCall* call) {
  BALEEN_ASSIGN_OR_RETURN(call->arguments_json, ArgumentsText(field));
  const absl::StatusOr<ordered_json> arguments = ParseJson(call->arguments_json);
  if (!arguments.ok()) {
    return field.Bad(absl::StrCat("not valid JSON: ", arguments.status().message()));
  }
  if (!arguments->is_object()) return field.Bad(kNoObject);
  for (const auto& [key, value] : arguments->items()) {
    call->arguments.push_back(
        {.key = key,
         .is_string = value.is_string(),
         .value = value.is_string() ? value.get<std::string>() : DumpPythonJson(value)});
  }
  return absl::OkStatus();
}

absl::StatusOr<ToolCall> ParseToolCall(const ordered_json& json, absl::string_view path) {
  std::string function_path;
  BALEEN_ASSIGN_OR_RETURN(const ordered_json* function, FunctionOf(json, path, &function_path));
  ToolCall call;
  BALEEN_ASSIGN_OR_RETURN(call.id, Field(json, path, "id").String(""));
  BALEEN_ASSIGN_OR_RETURN(call.name, ParseFunctionName(Field(*function, function_path, "name")));
  BALEEN_RETURN_IF_ERROR(ParseArguments(Field(*function, function_path, "arguments"), &call));
  return call;
}

absl::StatusOr<Tool> ParseTool(const ordered_json& json, absl::string_view path) {
  std::string function_path;
  BALEEN_ASSIGN_OR_RETURN(const ordered_json* function, FunctionOf(json, path, &function_path));
  Tool tool{.json = DumpPythonJson(*function)};
  BALEEN_ASSIGN_OR_RETURN(tool.name, ParseFunctionName(Field(*function, function_path, "name")));
  BALEEN_ASSIGN_OR_RETURN(tool.description,
                          Field(*function, function_path, "description").String(""));
  const Field parameters(*function, function_path, "parameters");
  if (parameters.present() && !parameters.value().is_object()) {
    return parameters.Bad("must be an object");
  }
  tool.parameters_json = parameters.present() ? DumpPythonJson(parameters.value()) : "{}";
  return tool;
}

absl::Status ParseAssistant(const ordered_json& json, absl::string_view path,
                            ChatMessage* message) {
  const Field reasoning_content(json, path, "reasoning_content");
  const Field reasoning(json, path, "reasoning");
  BALEEN_ASSIGN_OR_RETURN(message->reasoning,
                          (reasoning_content.present() ? reasoning_content : reasoning).String(""));
  const Field function_call(json, path, "function_call");
  if (function_call.present()) return function_call.Bad("not supported; use tool_calls");
  const Field calls(json, path, "tool_calls");
  if (!calls.present()) return absl::OkStatus();
  if (!calls.value().is_array()) return calls.Bad("must be a list");
  for (size_t i = 0; i < calls.value().size(); ++i) {
    BALEEN_ASSIGN_OR_RETURN(
        ToolCall call, ParseToolCall(calls.value()[i], absl::StrCat(calls.path(), "[", i, "]")));
    message->tool_calls.push_back(std::move(call));
  }
  return absl::OkStatus();
}

// The official format lets a system or developer message carry tools itself.
absl::Status ParseSystemExtras(const ordered_json& json, absl::string_view path,
                               ChatMessage* message) {
  const Field tools(json, path, "tools");
  if (tools.present()) {
    BALEEN_ASSIGN_OR_RETURN(message->tools, ParseTools(tools.value(), tools.path()));
  }
  const Field format(json, path, "response_format");
  if (format.present()) {
    BALEEN_ASSIGN_OR_RETURN(message->response_format,
                            ParseResponseFormat(format.value(), format.path()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChatMessage> ParseMessage(const ordered_json& json, absl::string_view path) {
  if (!json.is_object()) return BadField(path, "must be an object");
  ChatMessage message;
  BALEEN_ASSIGN_OR_RETURN(message.role, ParseRole(Field(json, path, "role")));
  switch (message.role) {
    case Role::kAssistant:
      BALEEN_RETURN_IF_ERROR(ParseAssistant(json, path, &message));
      break;
    case Role::kTool: {
      BALEEN_ASSIGN_OR_RETURN(message.tool_call_id, Field(json, path, "tool_call_id").String(""));
      break;
    }
    case Role::kSystem:
    case Role::kDeveloper:
      BALEEN_RETURN_IF_ERROR(ParseSystemExtras(json, path, &message));
      break;
    case Role::kUser:
      break;
  }
  const Field field(json, path, "content");
  BALEEN_ASSIGN_OR_RETURN(std::optional<std::string> content, ParseContent(field));
  const bool may_lack_content = !message.tool_calls.empty() || !message.reasoning.empty();
  if (!content.has_value() && !may_lack_content) return field.Bad("required");
  message.content = std::move(content).value_or("");
  return message;
}

absl::StatusOr<std::vector<Tool>> ParseTools(const ordered_json& json, absl::string_view path) {
  if (!json.is_array()) return BadField(path, "must be a list");
  std::vector<Tool> tools;
  for (size_t i = 0; i < json.size(); ++i) {
    BALEEN_ASSIGN_OR_RETURN(Tool tool, ParseTool(json[i], absl::StrCat(path, "[", i, "]")));
    tools.push_back(std::move(tool));
  }
  return tools;
}

absl::StatusOr<std::string> ParseResponseFormat(const ordered_json& json, absl::string_view path) {
  if (!json.is_object()) return BadField(path, "must be an object");
  const Field type(json, path, "type");
  BALEEN_ASSIGN_OR_RETURN(const std::string name, type.String(""));
  if (name == "text") return std::string();
  if (name == "json_object" || name == "json_schema") return DumpPythonJson(json);
  return type.Bad("must be text, json_object or json_schema");
}

}  // namespace baleen::chat
