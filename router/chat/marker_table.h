#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "router/chat/chat_message.h"

namespace baleen::chat {

// One added token of a tokenizer.json.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;
};

// Of a tokenizer::Tokenizer, which this folder does not know.
template <typename Tokenizer>
std::vector<AddedToken> AddedTokensOf(const Tokenizer& tokenizer) {
  std::vector<AddedToken> added;
  for (int32_t id = 0; id < tokenizer.vocab_limit(); ++id)
    if (tokenizer.IsAdded(id))
      added.push_back({.id = id,
                       .text = std::string(tokenizer.TokenBytes(id)),
                       .special = tokenizer.IsSpecial(id)});
  return added;
}

// kV32 if the tokenizer has the ｜DSML｜ token.
ChatStyle StyleOf(std::span<const AddedToken> tokens);

// What the output parser does with single tokens. Immutable; any thread.
class MarkerTable {
 public:
  // Special tokens become invisible, except those that the style's tool calls are made of.
  MarkerTable(std::span<const AddedToken> tokens, ChatStyle style);

  enum class Kind : uint8_t { kText, kThinkBegin, kThinkEnd, kHidden };
  struct Marker {
    Kind kind = Kind::kText;
    size_t bytes = 0;  // of the token's text; 0 for kText
  };
  Marker Of(int32_t id) const;

  ChatStyle style() const { return style_; }
  // Whether </think> is a token; else it is looked for in the text.
  bool thinks_in_tokens() const { return thinks_in_tokens_; }

 private:
  ChatStyle style_;
  bool thinks_in_tokens_ = false;
  absl::flat_hash_map<int32_t, Marker> markers_;
};

}  // namespace baleen::chat
