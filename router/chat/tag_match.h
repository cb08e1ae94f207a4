#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace baleen::chat {

enum class TagMatch : uint8_t {
  kNo,
  kPartial,  // the text ends within the tag; empty text too
  kYes
};

// Whether `text` begins with `tag`.
inline TagMatch StartsWithTag(absl::string_view text, absl::string_view tag) {
  if (absl::StartsWith(text, tag)) return TagMatch::kYes;
  return absl::StartsWith(tag, text) ? TagMatch::kPartial : TagMatch::kNo;
}

// Bytes at the end of `text` that may become `tag`: the longest suffix that is a proper prefix of
// it. `tag` begins with a character that occurs in it only once, '<'.
inline size_t PartialTagBytes(absl::string_view text, absl::string_view tag) {
  const size_t longest = std::min(text.size(), tag.size() - 1);
  const absl::string_view tail = text.substr(text.size() - longest);
  const size_t begin = tail.rfind(tag[0]);
  if (begin == absl::string_view::npos) return 0;
  return absl::StartsWith(tag, tail.substr(begin)) ? tail.size() - begin : 0;
}

}  // namespace baleen::chat
