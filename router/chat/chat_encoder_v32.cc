#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/chat/chat_encoder.h"
#include "router/chat/markers.h"

namespace baleen::chat {
namespace {

// The text of the official golden outputs. Its blank lines matter.
constexpr char kToolsBefore[] = R"(## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
)";
constexpr char kToolsAfter[] = "\n</functions>\n";

constexpr char kResponseFormat[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

void AppendTools(const std::vector<Tool>& tools, std::string* out) {
  if (tools.empty()) return;
  absl::StrAppend(out, "\n\n", kToolsBefore);
  for (size_t i = 0; i < tools.size(); ++i) absl::StrAppend(out, i > 0 ? "\n" : "", tools[i].json);
  out->append(kToolsAfter);
}

void AppendResponseFormat(const std::string& format, std::string* out) {
  if (!format.empty()) absl::StrAppend(out, kResponseFormat, format);
}

void AppendCall(const ToolCall& call, std::string* out) {
  absl::StrAppend(out, kInvokeOpen, " name=\"", call.name, "\">\n");
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    const ToolArgument& argument = call.arguments[i];
    absl::StrAppend(out, i > 0 ? "\n" : "", kParameterOpen, " name=\"", argument.key,
                    "\" string=\"", argument.is_string ? "true" : "false");
    absl::StrAppend(out, "\">", argument.value, kParameterClose);
  }
  absl::StrAppend(out, "\n", kInvokeClose);
}

void AppendCalls(const std::vector<ToolCall>& calls, std::string* out) {
  if (calls.empty()) return;
  absl::StrAppend(out, "\n\n", kCallsOpen, "\n");
  for (size_t i = 0; i < calls.size(); ++i) {
    if (i > 0) out->append("\n");
    AppendCall(calls[i], out);
  }
  absl::StrAppend(out, "\n", kCallsClose);
}

bool AsksForAnswer(const ChatMessage& m) {
  return m.role == Role::kUser || m.role == Role::kDeveloper;
}

class V32Encoder {
 public:
  explicit V32Encoder(const ChatPrompt& prompt) : prompt_(prompt) {
    for (size_t i = 0; i < prompt.messages.size(); ++i) {
      if (AsksForAnswer(prompt.messages[i])) last_user_ = static_cast<int>(i);
    }
  }

  std::string Encode() {
    out_ = kBos;
    const std::vector<ChatMessage>& messages = prompt_.messages;
    if (messages.empty() || messages[0].role != Role::kSystem) {
      AppendTools(prompt_.tools, &out_);
      AppendResponseFormat(prompt_.response_format, &out_);
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      if (!IsForgotten(static_cast<int>(i))) AppendMessage(static_cast<int>(i));
    }
    if (prompt_.continue_final_message && absl::EndsWith(out_, kEos)) {
      out_.resize(out_.size() - (sizeof(kEos) - 1));
    }
    return std::move(out_);
  }

 private:
  // The official code drops earlier developer messages together with earlier reasoning.
  bool IsForgotten(int index) const {
    return prompt_.thinking && prompt_.drop_thinking && index < last_user_ &&
           prompt_.messages[index].role == Role::kDeveloper;
  }

  const char* ThinkTag(bool open) const {
    return open && prompt_.thinking ? kThinkBegin : kThinkEnd;
  }

  void AppendMessage(int index) {
    const ChatMessage& message = prompt_.messages[index];
    switch (message.role) {
      case Role::kSystem:
        out_.append(message.content);
        AppendTools(index == 0 && message.tools.empty() ? prompt_.tools : message.tools, &out_);
        AppendResponseFormat(index == 0 && message.response_format.empty()
                                 ? prompt_.response_format
                                 : message.response_format,
                             &out_);
        break;
      case Role::kUser:
        absl::StrAppend(&out_, kUser, message.content, kAssistant, ThinkTag(index == last_user_));
        break;
      case Role::kDeveloper:
        out_.append(kUser);
        AppendTools(message.tools, &out_);
        AppendResponseFormat(message.response_format, &out_);
        absl::StrAppend(&out_, "\n\n# The user's message is: ", message.content, kAssistant,
                        ThinkTag(index == last_user_));
        break;
      case Role::kAssistant:
        // Reasoning before the last user message is never shown, dropped or not.
        if (prompt_.thinking && index > last_user_) {
          absl::StrAppend(&out_, message.reasoning, kThinkEnd);
        }
        out_.append(message.content);
        AppendCalls(message.tool_calls, &out_);
        out_.append(kEos);
        calls_ = message.tool_calls.size();
        results_ = 0;
        break;
      case Role::kTool:
        AppendResult(index);
        break;
    }
  }

  void AppendResult(int index) {
    ++results_;
    if (results_ == 1) out_.append("\n\n<function_results>");
    absl::StrAppend(&out_, "\n<result>", prompt_.messages[index].content, "</result>");
    if (results_ == calls_) {
      absl::StrAppend(&out_, "\n</function_results>\n\n", ThinkTag(index >= last_user_));
    }
  }

  const ChatPrompt& prompt_;
  int last_user_ = -1;  // index of the last message that asks for an answer
  size_t calls_ = 0;    // of the last assistant message
  size_t results_ = 0;  // to those calls, so far
  std::string out_;
};

}  // namespace

EncodedPrompt EncodeV32(const ChatPrompt& prompt) {
  EncodedPrompt encoded{.text = V32Encoder(prompt).Encode()};
  encoded.starts_in_reasoning = absl::EndsWith(encoded.text, kThinkBegin);
  return encoded;
}

}  // namespace baleen::chat
