#include "router/chat/tool_block_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/chat/markers.h"
#include "router/chat/tag_match.h"

namespace baleen::chat {

std::unique_ptr<ToolBlockParser> ToolBlockParser::Create(ChatStyle style) {
  return style == ChatStyle::kV32 ? MakeDsmlBlockParser() : MakeV31BlockParser();
}

absl::string_view ToolBlockParser::OpeningTag(ChatStyle style) {
  return style == ChatStyle::kV32 ? kCallsOpen : kToolCallsBegin;
}

bool ToolBlockParser::Push(absl::string_view text, OutputEvents* out) {
  absl::StrAppend(&buffer_, text);
  Next next = Next::kAgain;
  while (next == Next::kAgain) next = Step(out);
  if (next == Next::kReject) return false;
  if (committed() && !in_call()) raw_begin_ = position_;
  buffer_.erase(0, raw_begin_);
  position_ -= raw_begin_;
  raw_begin_ = 0;
  return true;
}

OutputEnd ToolBlockParser::Finish() {
  // What is held between calls may still be the closing tag, which may be missing.
  const bool call_open = in_call() || !absl::StartsWith(closing_tag(), rest());
  if (!committed()) {
    end_.incomplete_call = true;
  } else if (call_open) {
    end_.incomplete_call = true;
    absl::StrAppend(&end_.unparsed, raw());
  }
  return std::move(end_);
}

ToolBlockParser::Next ToolBlockParser::FindCall(absl::string_view call_tag, bool* opens) {
  if (in_junk_) return DropJunk(position_);
  TakeSpace();
  if (committed()) raw_begin_ = position_;
  const TagMatch call = StartsWithTag(rest(), call_tag);
  if (call == TagMatch::kYes) {
    if (!committed()) first_call_ = position_;
    Take(call_tag.size());
    *opens = true;
    return Next::kAgain;
  }
  const TagMatch close = StartsWithTag(rest(), closing_tag());
  if (call == TagMatch::kPartial || close == TagMatch::kPartial) return Next::kNeedsText;
  if (!committed()) return Next::kReject;
  if (close == TagMatch::kYes) {
    lost_call_ = false;
    Take(closing_tag().size());
    return Next::kAgain;
  }
  return DropJunk(position_ + 1);
}

// Drops text up to the first '<' at `from` or later.
ToolBlockParser::Next ToolBlockParser::DropJunk(size_t from) {
  const size_t begin = position_;
  position_ = std::min(buffer_.find('<', from), buffer_.size());
  in_junk_ = position_ == buffer_.size();
  const size_t bytes = position_ - begin;
  if (lost_call_) {
    end_.unparsed.append(buffer_, begin, bytes);
  } else {
    end_.dropped_bytes += static_cast<int64_t>(bytes);
  }
  return in_junk_ ? Next::kNeedsText : Next::kAgain;
}

ToolBlockParser::Next ToolBlockParser::GiveUpCall() {
  if (!committed()) return Next::kReject;
  end_.incomplete_call = true;
  lost_call_ = in_junk_ = true;
  absl::StrAppend(&end_.unparsed, raw().substr(0, position_ - raw_begin_));
  return Next::kAgain;
}

ToolBlockParser::Next ToolBlockParser::CallIsText() {
  if (!committed()) return Next::kReject;
  absl::StrAppend(&end_.unparsed, raw().substr(0, position_ - raw_begin_));
  raw_begin_ = position_;
  lost_call_ = false;
  return Next::kAgain;
}

void ToolBlockParser::BeginCall(absl::string_view name, OutputEvents* out) {
  out->push_back(
      {.kind = OutputEvent::Kind::kToolCallBegin, .call = calls_begun_, .text = std::string(name)});
  if (!committed()) raw_begin_ = first_call_;
  ++calls_begun_;
  lost_call_ = false;
}

void ToolBlockParser::EmitArguments(absl::string_view json, OutputEvents* out) {
  EmitText(OutputEvent::Kind::kToolArguments, calls_begun_ - 1, json, out);
}

void ToolBlockParser::EndCall(bool malformed, bool repeated_keys, OutputEvents* out) {
  out->push_back({.kind = OutputEvent::Kind::kToolCallEnd,
                  .call = calls_begun_ - 1,
                  .repeated_keys = repeated_keys});
  ++end_.complete_calls;
  if (malformed) ++end_.malformed_calls;
  raw_begin_ = position_;
}

void ToolBlockParser::TakeSpace() {
  position_ = std::min(buffer_.find_first_not_of(" \n\r\t", position_), buffer_.size());
}

void ToolBlockParser::TakeJunk() {
  position_ = std::min(buffer_.find('<', position_ + 1), buffer_.size());
}

}  // namespace baleen::chat
