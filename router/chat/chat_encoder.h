#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "router/chat/chat_message.h"

namespace baleen::chat {

struct EncodedPrompt {
  std::string text;  // begins with the begin-of-sentence token: tokenise without adding another
  bool starts_in_reasoning = false;  // the model goes on inside <think>
};

// The text that the model was trained to see for a conversation. `prompt` has passed
// CheckConversation (ParseChatMessages sees to it). Pure.
//
// kV32: deepseek-ai/DeepSeek-V3.2, encoding/encoding_dsv32.py, byte for byte. Tools and response
// format of the request go to the first message if it is the system's, else to an empty system
// message put before it. Where the official code refuses an assistant message without reasoning
// after the last user message, its reasoning is taken as empty.
//
// kV31: the chat template of DeepSeek-V3.1 and V3.2-Exp. Developer messages count as system
// messages; tools given in messages come after the request's. InvalidArgument for a response
// format, which it has no place for.
absl::StatusOr<EncodedPrompt> EncodeChat(const ChatPrompt& prompt, ChatStyle style);

// The two styles.
EncodedPrompt EncodeV32(const ChatPrompt& prompt);
absl::StatusOr<EncodedPrompt> EncodeV31(const ChatPrompt& prompt);

}  // namespace baleen::chat
