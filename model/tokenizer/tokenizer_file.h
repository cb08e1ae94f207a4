#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::tokenizer {

struct VocabToken {
  std::string bytes;  // what it decodes to
  int32_t id;
  bool spells_bytes;  // false: not written in byte symbols, so no text encodes to it
};

// Tokens `left` and `right` side by side become `merged`. Its rank is its place in the list.
struct Merge {
  int32_t left, right, merged;
};

struct AddedToken {
  std::string content;  // UTF-8, matched as it stands
  int32_t id;
  bool special;
};

// What Baleen uses of a byte-level BPE tokenizer.json.
struct TokenizerFile {
  std::vector<VocabToken> vocab;            // ids distinct, at least the 256 single bytes
  std::vector<Merge> merges;                // lowest rank first
  bool ignore_merges = false;               // a piece that is a token stays whole
  std::vector<AddedToken> added_tokens;     // ids and contents distinct
  std::vector<std::string> split_patterns;  // regexes in Oniguruma's syntax, applied in order
  std::array<int32_t, 256> byte_ids;        // token of each single byte
};

// Parses the text of a tokenizer.json; `name` (its path) starts every message, the field follows.
// InvalidArgument: not JSON, a field missing or of the wrong type, a merge of unknown tokens, ids
// that clash. FailedPrecondition: well formed, but asks for something outside this family
// (another model or pre-tokeniser, a normaliser, byte_fallback, dropout, affixes, lstrip ...).
//
// Not used: `post_processor` (Baleen's chat encoder writes the begin-of-sentence token as text, so
// nothing is added behind its back), `truncation`, `padding`, and `unk_token`, which cannot occur
// because every byte has a token.
absl::StatusOr<TokenizerFile> ParseTokenizerFile(absl::string_view json, absl::string_view name);

}  // namespace baleen::tokenizer
