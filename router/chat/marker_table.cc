#include "router/chat/marker_table.h"

#include <algorithm>

#include "router/chat/markers.h"

namespace baleen::chat {
namespace {

bool IsPartOfToolCalls(const std::string& text, ChatStyle style) {
  if (style == ChatStyle::kV32) return text == kDsml;
  const char* const tags[] = {kToolCallsBegin, kToolCallsEnd, kToolCallBegin, kToolCallEnd,
                              kToolSep};
  return std::any_of(std::begin(tags), std::end(tags),
                     [&](const char* tag) { return text == tag; });
}

}  // namespace

ChatStyle StyleOf(std::span<const AddedToken> tokens) {
  const bool dsml = std::any_of(tokens.begin(), tokens.end(),
                                [](const AddedToken& t) { return t.text == kDsml; });
  return dsml ? ChatStyle::kV32 : ChatStyle::kV31;
}

MarkerTable::MarkerTable(std::span<const AddedToken> tokens, ChatStyle style) : style_(style) {
  for (const AddedToken& token : tokens) {
    Marker marker{.kind = Kind::kText, .bytes = token.text.size()};
    if (token.text == kThinkBegin) {
      marker.kind = Kind::kThinkBegin;
    } else if (token.text == kThinkEnd) {
      marker.kind = Kind::kThinkEnd;
      thinks_in_tokens_ = true;
    } else if (token.special && !IsPartOfToolCalls(token.text, style)) {
      marker.kind = Kind::kHidden;
    } else {
      continue;
    }
    markers_.emplace(token.id, marker);
  }
}

MarkerTable::Marker MarkerTable::Of(int32_t id) const {
  const auto it = markers_.find(id);
  return it == markers_.end() ? Marker{} : it->second;
}

}  // namespace baleen::chat
