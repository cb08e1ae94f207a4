#include "router/chat/output_event.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "router/chat/python_json.h"

namespace baleen::chat {

void EmitText(OutputEvent::Kind kind, int call, absl::string_view text, OutputEvents* out) {
  if (text.empty()) return;
  if (!out->empty() && out->back().kind == kind && out->back().call == call) {
    absl::StrAppend(&out->back().text, text);
  } else {
    out->push_back({.kind = kind, .call = call, .text = std::string(text)});
  }
}

const char* FinishReason(const OutputEnd& end, bool hit_length) {
  if (end.incomplete_call) return "length";
  if (end.complete_calls > 0) return "tool_calls";
  return hit_length ? "length" : "stop";
}

void CollectedOutput::Add(const OutputEvents& events) {
  for (const OutputEvent& event : events) {
    switch (event.kind) {
      case OutputEvent::Kind::kReasoning:
        reasoning += event.text;
        break;
      case OutputEvent::Kind::kContent:
        content += event.text;
        break;
      case OutputEvent::Kind::kToolCallBegin:
        calls.push_back({.name = event.text});
        break;
      case OutputEvent::Kind::kToolArguments:
        BALEEN_CHECK(!calls.empty());
        calls.back().arguments += event.text;
        break;
      case OutputEvent::Kind::kToolCallEnd:
        BALEEN_CHECK(!calls.empty());
        calls.back().complete = true;
        if (!event.repeated_keys) break;
        if (const auto arguments = ParseJson(calls.back().arguments); arguments.ok()) {
          calls.back().arguments = DumpPythonJson(*arguments);
        }
        break;
    }
  }
}

void CollectedOutput::Close(const OutputEnd& end) {
  std::erase_if(calls, [](const Call& call) { return !call.complete; });
  content += end.unparsed;
}

}  // namespace baleen::chat
