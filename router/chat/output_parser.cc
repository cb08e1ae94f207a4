#include "router/chat/output_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "router/chat/markers.h"
#include "router/chat/tag_match.h"

namespace baleen::chat {
namespace {

constexpr size_t kMaxLineBreaks = 2;  // before the opening tag

// Line breaks at the end of `text` that would belong to a tag there.
size_t LineBreaksBeforeTag(absl::string_view text) {
  size_t count = 0;
  while (count < kMaxLineBreaks && count < text.size() && text[text.size() - 1 - count] == '\n') {
    ++count;
  }
  return count;
}

}  // namespace

OutputParser::OutputParser(const Options& options, const MarkerTable* markers)
    : options_(options),
      markers_(markers),
      opening_tag_(ToolBlockParser::OpeningTag(options.style)),
      state_(options.starts_in_reasoning ? State::kReasoning : State::kContent) {}

void OutputParser::PushToken(int32_t id, absl::string_view text, OutputEvents* out) {
  BALEEN_CHECK(markers_ != nullptr);
  const MarkerTable::Marker marker = markers_->Of(id);
  PushText(text.substr(0, text.size() - std::min(text.size(), marker.bytes)), out);
  switch (marker.kind) {
    case MarkerTable::Kind::kText:
    case MarkerTable::Kind::kHidden:
      return;
    case MarkerTable::Kind::kThinkBegin:
      return OnThinkBegin(out);
    case MarkerTable::Kind::kThinkEnd:
      return OnThinkEnd(out);
  }
}

void OutputParser::PushText(absl::string_view text, OutputEvents* out) {
  if (text.empty()) return;
  absl::StrAppend(&held_, text);
  Scan(out);
}

void OutputParser::Scan(OutputEvents* out) {
  Progress progress = Progress::kAgain;
  while (progress == Progress::kAgain) {
    progress = state_ == State::kCalls ? ScanCalls(out) : ScanText(out);
  }
}

OutputParser::Progress OutputParser::ScanText(OutputEvents* out) {
  if (held_.empty()) return Progress::kNeedsText;
  const bool tags_in_text = markers_ == nullptr || !markers_->thinks_in_tokens();
  if (at_start_ && tags_in_text) {
    const absl::string_view tag = state_ == State::kReasoning ? kThinkBegin : kThinkEnd;
    const TagMatch match = StartsWithTag(held_, tag);
    if (match == TagMatch::kPartial) return Progress::kNeedsText;
    if (match == TagMatch::kYes) {
      held_.erase(0, tag.size());
      return Progress::kAgain;
    }
  }
  const size_t think_end = state_ == State::kReasoning && tags_in_text
                               ? absl::string_view(held_).find(kThinkEnd)
                               : absl::string_view::npos;
  const size_t calls = options_.parse_tool_calls ? absl::string_view(held_).find(opening_tag_)
                                                 : absl::string_view::npos;
  if (think_end < calls) {
    Emit(absl::string_view(held_).substr(0, think_end), out);
    held_.erase(0, think_end + sizeof(kThinkEnd) - 1);
    EndReasoning();
    return Progress::kAgain;
  }
  if (calls != absl::string_view::npos) {
    OpenCalls(calls, out);
    return Progress::kAgain;
  }
  const size_t certain = held_.size() - HeldBytes();
  Emit(absl::string_view(held_).substr(0, certain), out);
  held_.erase(0, certain);
  return Progress::kNeedsText;
}

// Bytes at the end of held_ that may be the beginning of a tag.
size_t OutputParser::HeldBytes() const {
  size_t bytes = 0;
  if (state_ == State::kReasoning && (markers_ == nullptr || !markers_->thinks_in_tokens())) {
    bytes = PartialTagBytes(held_, kThinkEnd);
  }
  if (!options_.parse_tool_calls) return bytes;
  const size_t tag = PartialTagBytes(held_, opening_tag_);
  size_t breaks = 0;
  if (options_.style == ChatStyle::kV32) {
    breaks = LineBreaksBeforeTag(absl::string_view(held_).substr(0, held_.size() - tag));
  }
  return std::max(bytes, tag + breaks);
}

void OutputParser::Emit(absl::string_view text, OutputEvents* out) {
  if (text.empty()) return;
  at_start_ = false;
  EmitText(
      state_ == State::kReasoning ? OutputEvent::Kind::kReasoning : OutputEvent::Kind::kContent, -1,
      text, out);
}

void OutputParser::EndReasoning() {
  state_ = State::kContent;
  at_start_ = true;
}

void OutputParser::OpenCalls(size_t tag_at, OutputEvents* out) {
  const absl::string_view before = absl::string_view(held_).substr(0, tag_at);
  const size_t breaks = options_.style == ChatStyle::kV32 ? LineBreaksBeforeTag(before) : 0;
  Emit(before.substr(0, tag_at - breaks), out);
  opening_ = held_.substr(tag_at - breaks, breaks + opening_tag_.size());
  held_.erase(0, tag_at + opening_tag_.size());
  before_calls_ = std::exchange(state_, State::kCalls);
  calls_ = ToolBlockParser::Create(options_.style);
}

OutputParser::Progress OutputParser::ScanCalls(OutputEvents* out) {
  const bool accepted = calls_->Push(held_, out);
  held_.clear();
  if (accepted) return Progress::kNeedsText;
  ReturnFromCalls(out);
  return Progress::kAgain;
}

// It was no block of calls: its opening tag was text, what followed is still to be looked at.
void OutputParser::ReturnFromCalls(OutputEvents* out) {
  state_ = before_calls_;
  Emit(opening_, out);
  held_ = std::string(calls_->raw());
  calls_.reset();
}

void OutputParser::OnThinkBegin(OutputEvents* out) {
  if (state_ == State::kReasoning && at_start_ && held_.empty()) return;
  PushText(kThinkBegin, out);
}

void OutputParser::OnThinkEnd(OutputEvents* out) {
  if (state_ == State::kCalls && !calls_->committed() && before_calls_ == State::kReasoning) {
    ReturnFromCalls(out);
  }
  if (state_ == State::kReasoning) {
    Emit(held_, out);
    held_.clear();
    EndReasoning();
  } else if (state_ != State::kContent || !at_start_ || !held_.empty()) {
    PushText(kThinkEnd, out);
  }
}

OutputEnd OutputParser::Finish(OutputEvents* out) {
  if (state_ != State::kCalls) {
    Emit(held_, out);
    return {};
  }
  const bool committed = calls_->committed();
  OutputEnd end = calls_->Finish();
  if (!committed) {
    state_ = before_calls_;
    Emit(opening_, out);
    Emit(calls_->raw(), out);
  }
  return end;
}

}  // namespace baleen::chat
