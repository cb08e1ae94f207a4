#pragma once

// What the tests of the output parser share.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "router/chat/output_parser.h"

namespace baleen::chat {

// What an output is, written for reading: reasoning|content|name(arguments)...|flags.
inline std::string Describe(const OutputEvents& events, const OutputEnd& end) {
  CollectedOutput message;
  message.Add(events);
  std::string text = absl::StrCat(message.reasoning, "|", message.content, "|");
  for (const auto& call : message.calls) {
    absl::StrAppend(&text, call.name, "(", call.arguments, ")", call.complete ? "" : "?");
  }
  if (end.incomplete_call || !end.unparsed.empty())
    absl::StrAppend(&text, end.incomplete_call ? "|incomplete:" : "|text:", end.unparsed);
  if (end.malformed_calls > 0) absl::StrAppend(&text, "|malformed:", end.malformed_calls);
  if (end.dropped_bytes > 0) absl::StrAppend(&text, "|dropped:", end.dropped_bytes);
  return text;
}

inline std::string ParsePieces(const OutputParser::Options& options,
                               const std::vector<absl::string_view>& pieces) {
  OutputParser parser(options);
  OutputEvents events;
  for (const absl::string_view piece : pieces) parser.PushText(piece, &events);
  const OutputEnd end = parser.Finish(&events);
  return Describe(events, end);
}

// Parses `text` whole, cut at every place into two, and byte by byte: all must give the same.
inline std::string Parse(absl::string_view text, OutputParser::Options options) {
  const std::string whole = ParsePieces(options, {text});
  for (size_t cut = 1; cut < text.size(); ++cut) {
    EXPECT_EQ(ParsePieces(options, {text.substr(0, cut), text.substr(cut)}), whole)
        << "cut at " << cut << " of " << text;
  }
  std::vector<absl::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) bytes.push_back(text.substr(i, 1));
  EXPECT_EQ(ParsePieces(options, bytes), whole) << "byte by byte: " << text;
  return whole;
}

}  // namespace baleen::chat
