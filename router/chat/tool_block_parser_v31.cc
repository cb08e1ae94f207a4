#include <algorithm>

#include "absl/strings/ascii.h"
#include "router/chat/markers.h"
#include "router/chat/python_json.h"
#include "router/chat/tag_match.h"
#include "router/chat/tool_block_parser.h"

namespace baleen::chat {
namespace {

// A longer name is taken for text, as in tool_block_parser_v32.cc.
constexpr size_t kMaxNameBytes = 512;

class V31BlockParser final : public ToolBlockParser {
 private:
  enum class State : uint8_t { kBetween, kName, kArguments };

  bool in_call() const override { return state_ != State::kBetween; }
  absl::string_view closing_tag() const override { return kToolCallsEnd; }

  Next Step(OutputEvents* out) override {
    switch (state_) {
      case State::kBetween: {
        bool opens = false;
        const Next next = FindCall(kToolCallBegin, &opens);
        if (opens) state_ = State::kName;
        return next;
      }
      case State::kName:
        return Name(out);
      case State::kArguments:
        return Arguments(out);
    }
    return Next::kReject;
  }

  Next Name(OutputEvents* out) {
    const size_t sep = rest().find(kToolSep);
    if (sep == absl::string_view::npos && rest().size() <= kMaxNameBytes + sizeof(kToolSep)) {
      return Next::kNeedsText;
    }
    const absl::string_view name = absl::StripAsciiWhitespace(rest().substr(0, sep));
    if (sep > kMaxNameBytes || name.empty() || name.find("<｜") != absl::string_view::npos) {
      state_ = State::kBetween;
      return GiveUpCall();
    }
    BeginCall(name, out);
    Take(sep + sizeof(kToolSep) - 1);
    arguments_.clear();
    state_ = State::kArguments;
    return Next::kAgain;
  }

  // Up to the end of the call, or of the block if that is missing.
  Next Arguments(OutputEvents* out) {
    const size_t call_end = rest().find(kToolCallEnd);
    const size_t end = std::min(call_end, rest().find(kToolCallsEnd));
    const bool complete = end != absl::string_view::npos;
    const size_t held =
        std::max(PartialTagBytes(rest(), kToolCallEnd), PartialTagBytes(rest(), kToolCallsEnd));
    const size_t certain = complete ? end : rest().size() - held;
    arguments_.append(rest().data(), certain);
    EmitArguments(rest().substr(0, certain), out);
    Take(certain);
    if (!complete) return Next::kNeedsText;
    if (end == call_end) Take(sizeof(kToolCallEnd) - 1);
    CloseCall(out);
    return Next::kAgain;
  }

  void CloseCall(OutputEvents* out) {
    if (absl::StripAsciiWhitespace(arguments_).empty()) {
      EmitArguments("{}", out);
      EndCall(false, false, out);
    } else {
      const auto json = ParseJson(arguments_);
      EndCall(!json.ok() || !json->is_object(), false, out);
    }
    state_ = State::kBetween;
  }

  State state_ = State::kBetween;
  std::string arguments_;  // of the call being parsed
};

}  // namespace

std::unique_ptr<ToolBlockParser> MakeV31BlockParser() { return std::make_unique<V31BlockParser>(); }

}  // namespace baleen::chat
