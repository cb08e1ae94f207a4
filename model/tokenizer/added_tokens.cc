#include "model/tokenizer/added_tokens.h"

namespace baleen::tokenizer {

AddedTokenMatcher::AddedTokenMatcher(std::span<const AddedToken> tokens) {
  uint32_t nodes = 1;
  for (const AddedToken& token : tokens) {
    uint32_t node = 0;
    for (const char byte : token.content) {
      const auto [it, is_new] = edges_.try_emplace(Edge(node, byte), nodes);
      if (is_new) ++nodes;
      node = it->second;
    }
    ids_[node] = token.id;
    starts_[static_cast<uint8_t>(token.content[0])] = true;
  }
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::MatchAt(absl::string_view text,
                                                                   size_t begin) const {
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto edge = edges_.find(Edge(node, text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const auto id = ids_.find(node);
    if (id != ids_.end()) longest = Match{begin, i + 1, id->second};
  }
  return longest;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::Find(absl::string_view text,
                                                                size_t from) const {
  for (size_t i = from; i < text.size(); ++i) {
    if (!starts_[static_cast<uint8_t>(text[i])]) continue;
    if (std::optional<Match> match = MatchAt(text, i)) return match;
  }
  return std::nullopt;
}

}  // namespace baleen::tokenizer
