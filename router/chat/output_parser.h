#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "router/chat/chat_message.h"
#include "router/chat/marker_table.h"
#include "router/chat/output_event.h"
#include "router/chat/tool_block_parser.h"

namespace baleen::chat {

// Splits what the model writes into reasoning, content and tool calls, as it comes. The events, put
// together, depend only on the text, never on how it was cut.
//
// - Reasoning ends at the </think> token (in text without a MarkerTable: at the first "</think>"),
//   or where a block of tool calls begins. A second <think> or </think> right at the start of
//   reasoning or content is dropped.
// - Content ends where tool calls begin; up to two line breaks before them belong to the tag. If
//   no call follows the opening tag, it was content after all; so is, with kV32, a call whose body
//   is neither parameters nor a JSON object, and all of its block if it is the first.
// - Arguments are emitted as JSON while they come: strings in pieces, other values when complete;
//   what is not JSON becomes a string. A repeated key is emitted again, so that readers of JSON
//   keep the last value, and marked in the event of the end.
// - Text after the calls is dropped and counted.
// Tolerated: missing line breaks and closing tags of calls and blocks, <｜DSML｜invoke name="f"/>,
// a JSON object in place of parameters. Held back are an incomplete tag, and the beginning of a
// call until it has an argument or ends.
//
// Owner: one stream; one thread at a time.
class OutputParser {
 public:
  struct Options {
    ChatStyle style = ChatStyle::kV32;
    bool starts_in_reasoning = false;  // EncodedPrompt::starts_in_reasoning
    bool parse_tool_calls = false;     // ChatPrompt::expects_tool_calls(); else they are content
  };

  // `markers` must outlive this; null if only text is pushed.
  explicit OutputParser(const Options& options, const MarkerTable* markers = nullptr);

  // The next token with the text that the detokeniser gave for it, special tokens kept (so that it
  // ends with the token's own text, if that is an added token). Appends to `out`.
  void PushToken(int32_t id, absl::string_view text, OutputEvents* out);
  // The next piece of text, whole UTF-8 characters, when tokens are not known.
  void PushText(absl::string_view text, OutputEvents* out);

  // The end of the output: emits what was held back. Not to be used any further then.
  OutputEnd Finish(OutputEvents* out);

 private:
  enum class State : uint8_t { kReasoning, kContent, kCalls };
  enum class Progress : uint8_t { kAgain, kNeedsText };

  void Scan(OutputEvents* out);
  Progress ScanText(OutputEvents* out);
  Progress ScanCalls(OutputEvents* out);
  size_t HeldBytes() const;
  void Emit(absl::string_view text, OutputEvents* out);
  void OpenCalls(size_t tag_at, OutputEvents* out);
  void ReturnFromCalls(OutputEvents* out);
  void EndReasoning();
  void OnThinkBegin(OutputEvents* out);
  void OnThinkEnd(OutputEvents* out);

  const Options options_;
  const MarkerTable* const markers_;
  const absl::string_view opening_tag_;  // of a block of calls
  State state_;
  bool at_start_ = true;  // of reasoning or content: nothing of it was emitted
  std::string held_;      // text not yet decided upon
  // In kCalls:
  State before_calls_ = State::kContent;
  std::string opening_;  // the opening tag with the line breaks that belong to it
  std::unique_ptr<ToolBlockParser> calls_;
};

}  // namespace baleen::chat
