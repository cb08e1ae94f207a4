#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace baleen::chat {

// A piece of an assistant message, as it becomes certain.
struct OutputEvent {
  enum class Kind : uint8_t {
    kReasoning,      // text: the next piece of reasoning_content
    kContent,        // text: the next piece of content
    kToolCallBegin,  // text: the name; the arguments follow
    kToolArguments,  // text: the next piece of the arguments' JSON
    kToolCallEnd     // the call is complete
  };
  Kind kind = Kind::kContent;
  int call = -1;  // which call, from 0; -1 for text
  std::string text;
  bool repeated_keys = false;  // kToolCallEnd: the arguments have a key twice
};

using OutputEvents = std::vector<OutputEvent>;

// Appends an event, or its text to the last event if that is of the same kind and call.
void EmitText(OutputEvent::Kind kind, int call, absl::string_view text, OutputEvents* out);

// How the output ended.
struct OutputEnd {
  int complete_calls = 0;
  // Calls among them that are not what the format asks for, and are passed on as they came: junk
  // between parameters, with kV31 arguments that are no JSON object.
  int malformed_calls = 0;
  // The model began a call that did not become complete. Its arguments may have been emitted in
  // part; never report this as a clean stop.
  bool incomplete_call = false;
  // The text of such calls from their opening tag on, so that nothing is lost silently; and of
  // calls that turned out to be text after others had been emitted.
  std::string unparsed;
  int64_t dropped_bytes = 0;  // of text after or between calls
};

// OpenAI's finish_reason: "length" for an incomplete call, "tool_calls" if there are calls, else
// "length" or "stop" by whether the budget of tokens was used up.
const char* FinishReason(const OutputEnd& end, bool hit_length);

// The whole message, for replies that do not stream.
struct CollectedOutput {
  struct Call {
    std::string name;
    std::string arguments;  // JSON
    bool complete = false;
  };
  std::string reasoning;
  std::string content;
  std::vector<Call> calls;

  void Add(const OutputEvents& events);
  // Call last: takes out incomplete calls and puts the text of them at the end of the content.
  void Close(const OutputEnd& end);
};

}  // namespace baleen::chat
