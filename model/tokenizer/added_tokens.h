#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/tokenizer_file.h"

namespace baleen::tokenizer {

// Finds added tokens in text, leftmost first and the longest of those that start there. All added
// tokens take part, special or not (section 6.1 step 1 of the model's specification).
// Threads: const and safe from any.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::span<const AddedToken> tokens);

  struct Match {
    size_t begin, end;  // bytes of the text
    int32_t id;
  };
  // The first match that begins at `from` or later; linear in the text up to its end times the
  // length of the longest token.
  std::optional<Match> Find(absl::string_view text, size_t from) const;

 private:
  // A trie: (node, byte) -> node, root 0.
  static uint64_t Edge(uint32_t node, char byte) {
    return uint64_t{node} << 8 | static_cast<uint8_t>(byte);
  }
  std::optional<Match> MatchAt(absl::string_view text, size_t begin) const;

  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  absl::flat_hash_map<uint32_t, int32_t> ids_;  // of nodes where a token ends
  std::array<bool, 256> starts_{};              // first bytes, to skip over plain text quickly
};

}  // namespace baleen::tokenizer
