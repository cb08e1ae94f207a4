#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baleen::chat {

// How a checkpoint writes conversations.
//   kV32: DeepSeek-V3.2, tool calls in DSML
//   kV31: DeepSeek-V3.1 and V3.2-Exp, tool calls between their own marker tokens
enum class ChatStyle : uint8_t { kV32, kV31 };

enum class Role : uint8_t { kSystem, kDeveloper, kUser, kAssistant, kTool };

struct ToolArgument {
  std::string key;
  bool is_string = false;
  std::string value;  // the string itself, or the value in Python's JSON form
};

// A call that an earlier assistant message made.
struct ToolCall {
  std::string id;  // the client's; may be empty
  std::string name;
  std::string arguments_json;  // an object: text as sent, or in Python's JSON form
  std::vector<ToolArgument> arguments;
};

// A function the model may call. JSON texts are in Python's form, keys and numbers as sent.
struct Tool {
  std::string json;  // the whole `function` object
  std::string name;
  std::string description;      // may be empty
  std::string parameters_json;  // "{}" if there are none
};

struct ChatMessage {
  Role role = Role::kUser;
  std::string content;
  std::string reasoning;             // assistant only
  std::vector<ToolCall> tool_calls;  // assistant only
  std::string tool_call_id;          // tool only; may be empty
  std::vector<Tool> tools;           // system and developer only
  std::string response_format;       // system and developer only: JSON; empty if none
};

// One conversation to be answered.
struct ChatPrompt {
  std::vector<ChatMessage> messages;
  std::vector<Tool> tools;              // of the request; empty with tool_choice "none"
  std::string response_format;          // of the request: JSON; empty if none
  bool thinking = false;                // the answer begins with reasoning
  bool drop_thinking = true;            // forget the reasoning before the last user message
  bool continue_final_message = false;  // the last message is the beginning of the answer

  // Whether the model was told of tools, so that its output has to be searched for calls.
  bool expects_tool_calls() const {
    if (!tools.empty()) return true;
    for (const ChatMessage& m : messages) {
      if (!m.tools.empty()) return true;
    }
    return false;
  }
};

}  // namespace baleen::chat
