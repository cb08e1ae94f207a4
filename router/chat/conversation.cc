#include "router/chat/conversation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::chat {
namespace {

absl::Status BadMessage(size_t index, absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("messages[", index, "]", field, ": ", what));
}

// The call that each result belongs to, by id. `first` is the index of the first result.
absl::StatusOr<std::vector<size_t>> MatchById(const std::vector<ChatMessage>& messages,
                                              size_t first, size_t count) {
  const std::vector<ToolCall>& calls = messages[first - 1].tool_calls;
  absl::flat_hash_map<absl::string_view, size_t> call_of_id;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!call_of_id.emplace(calls[i].id, i).second) {
      return BadMessage(first - 1, absl::StrCat(".tool_calls[", i, "].id"),
                        "two calls have the same id");
    }
  }
  std::vector<bool> answered(calls.size(), false);
  std::vector<size_t> call(count);
  for (size_t j = 0; j < count; ++j) {
    const std::string& id = messages[first + j].tool_call_id;
    const auto it = call_of_id.find(id);
    if (it == call_of_id.end()) {
      return BadMessage(first + j, ".tool_call_id",
                        absl::StrCat("the assistant's message before made no call \"", id, "\""));
    }
    if (answered[it->second]) {
      return BadMessage(first + j, ".tool_call_id",
                        absl::StrCat("a second result for the call \"", id, "\""));
    }
    answered[it->second] = true;
    call[j] = it->second;
  }
  return call;
}

// Orders the `count` results at `first` like the calls of the message before them.
absl::Status OrderResults(std::vector<ChatMessage>* messages, size_t first, size_t count) {
  const std::vector<ToolCall>& calls = (*messages)[first - 1].tool_calls;
  if (count > calls.size()) {
    return BadMessage(first + calls.size(), "", "more tool results than calls");
  }
  const auto begin = messages->begin() + first;
  const size_t with_id = std::count_if(
      begin, begin + count, [](const ChatMessage& m) { return !m.tool_call_id.empty(); });
  if (with_id != 0 && with_id != count) {
    return BadMessage(first, ".tool_call_id", "give it in all results of a turn or in none");
  }
  if (with_id != 0) {
    BALEEN_ASSIGN_OR_RETURN(const std::vector<size_t> call, MatchById(*messages, first, count));
    if (count == calls.size()) {
      std::vector<ChatMessage> ordered(count);
      for (size_t j = 0; j < count; ++j) ordered[call[j]] = std::move(begin[j]);
      std::move(ordered.begin(), ordered.end(), begin);
    }
  }
  if (count < calls.size()) {
    return BadMessage(first - 1, ".tool_calls",
                      absl::StrCat(calls.size(), " calls but ", count, " tool results follow"));
  }
  return absl::OkStatus();
}

absl::Status CheckEnd(const ChatPrompt& prompt) {
  const size_t last = prompt.messages.size() - 1;
  const ChatMessage& message = prompt.messages[last];
  if (prompt.continue_final_message) {
    if (message.role != Role::kAssistant) {
      return BadMessage(last, ".role", "only an assistant message can be continued");
    }
    if (!message.tool_calls.empty()) {
      return BadMessage(last, ".tool_calls", "a message that makes calls cannot be continued");
    }
    return absl::OkStatus();
  }
  if (message.role == Role::kAssistant) {
    return BadMessage(last, ".role",
                      "the last message is the assistant's; set continue_final_message to have it "
                      "continued");
  }
  if (message.role == Role::kSystem) {
    return BadMessage(last, ".role", "the last message must be from a user or a tool");
  }
  return absl::OkStatus();
}

// Tools of the request belong to the first message if it is the system's.
absl::Status CheckGivenOnce(const ChatPrompt& prompt) {
  const ChatMessage& first = prompt.messages.front();
  if (first.role != Role::kSystem) return absl::OkStatus();
  if (!prompt.tools.empty() && !first.tools.empty()) {
    return absl::InvalidArgumentError("tools: given in the request and in messages[0]");
  }
  if (!prompt.response_format.empty() && !first.response_format.empty()) {
    return absl::InvalidArgumentError("response_format: given in the request and in messages[0]");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckConversation(ChatPrompt* prompt) {
  std::vector<ChatMessage>& messages = prompt->messages;
  if (messages.empty()) return absl::InvalidArgumentError("messages: must not be empty");
  BALEEN_RETURN_IF_ERROR(CheckGivenOnce(*prompt));
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == Role::kTool) {
      return BadMessage(i, "",
                        "a tool result must follow the assistant message that made the call");
    }
    if (messages[i].role == Role::kDeveloper && messages[i].content.empty()) {
      return BadMessage(i, ".content", "must not be empty");
    }
    if (messages[i].tool_calls.empty()) continue;
    if (i + 1 == messages.size() && prompt->continue_final_message) break;
    size_t count = 0;
    while (i + 1 + count < messages.size() && messages[i + 1 + count].role == Role::kTool) ++count;
    BALEEN_RETURN_IF_ERROR(OrderResults(&messages, i + 1, count));
    i += count;
  }
  return CheckEnd(*prompt);
}

}  // namespace baleen::chat
