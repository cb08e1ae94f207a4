#pragma once

#include <vector>

#include "absl/status/status.h"
#include "router/chat/chat_message.h"

namespace baleen::chat {

// Checks the order of the messages and puts tool results into the order of their calls, because the
// model matches them by order. Results with a tool_call_id are matched by it; results without any
// are taken as already in order.
//
// InvalidArgument, beginning with the path of the field ("messages[2].tool_call_id: ..."): no
// messages; a result without its call, unknown or used twice; a call without its result; nothing to
// answer (the last message is from the system, or from the assistant and not to be continued);
// tools or a response format both in the request and in the system message they would go to.
absl::Status CheckConversation(ChatPrompt* prompt);

}  // namespace baleen::chat
