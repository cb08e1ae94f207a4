#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::chat {

// A set of strings at which output is to stop, as an automaton (Aho-Corasick): the time per byte of
// output does not depend on how many there are. Immutable; any thread, shared between streams.
class StopStrings {
 public:
  static constexpr size_t kMaxTotalBytes = 16 * 1024;

  // InvalidArgument for an empty string, or if they are longer than kMaxTotalBytes together.
  static absl::StatusOr<std::shared_ptr<const StopStrings>> Create(
      std::span<const std::string> strings);

 private:
  friend class StopMatcher;
  using Node = int32_t;
  static constexpr Node kRoot = 0;

  StopStrings() = default;
  Node Next(Node node, char byte) const {
    return next_[size_t(node) * classes_ + class_of_[static_cast<uint8_t>(byte)]];
  }

  void AddString(const std::string& text, int index);
  void LinkFailures();

  uint16_t class_of_[256] =
      {};  // bytes that occur in the strings have a class of their own, from 1
  size_t classes_ = 1;
  std::vector<Node> next_;       // [nodes][classes_]; the whole automaton, failures followed
  std::vector<int32_t> depth_;   // bytes of the longest beginning of a stop string matched here
  std::vector<int32_t> match_;   // the longest stop string that ends here; -1 if none
  std::vector<int32_t> length_;  // bytes of each stop string
};

// Finds the first stop string in a stream of text: the one that ends first, and of those that end
// at the same place the longest. The result does not depend on how the text is cut.
// Owner: one stream; one thread at a time.
class StopMatcher {
 public:
  // `include_stop`: the stop string itself is part of the output.
  StopMatcher(std::shared_ptr<const StopStrings> strings, bool include_stop);

  // The text that is certain now; a suffix that may become a stop string is held back. Empty once
  // stopped.
  std::string Push(absl::string_view text);
  // The end of the stream: what was held back.
  std::string Finish();

  bool stopped() const { return stopped_by_ >= 0; }
  int stopped_by() const { return stopped_by_; }  // index of the stop string; -1 if none

 private:
  const std::shared_ptr<const StopStrings> strings_;
  const bool include_stop_;
  int32_t node_ = 0;
  int stopped_by_ = -1;
  std::string held_;
};

}  // namespace baleen::chat
