#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace baleen::tokenizer {

struct EncodeOptions {
  // Whether text that spells an added token ("<｜User｜>") becomes that token. False turns it into
  // ordinary tokens, so that a message cannot forge the frame of a conversation.
  bool split_added_tokens = true;
};

// Text to token ids and back by a checkpoint's tokenizer.json: byte-level BPE as in section 6 of
// the model's specification. No token is ever added that the text does not spell (no automatic
// begin of sentence). Decode(Encode(x)) == x.
//
// Threads: const and safe from any. It never changes after Load.
class Tokenizer {
 public:
  // Reads the file. NotFound if it cannot be opened; otherwise see ParseTokenizerFile. Every
  // message names the file and the field.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // The same from the file's text; `name` is what messages call it.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(absl::string_view json,
                                                          absl::string_view name);

  // InvalidArgument, naming the byte offset, if `text` is not valid UTF-8; also over 2 GiB.
  // Time O(n log n) for the worst text, linear for the usual; working memory up to 28 bytes per
  // byte of the longest piece (a word, a run of spaces).
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options = {}) const;

  // The text of `ids`: always valid UTF-8, with one U+FFFD per maximal ill-formed subpart. Ids
  // without a token are nothing; special tokens are nothing if `skip_special`.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // The id of an added token, special or not, by its exact text.
  std::optional<int32_t> TokenId(absl::string_view added) const;

  // False for ids out of range and for gaps in the vocabulary: those must never be sampled.
  bool HasToken(int32_t id) const { return Has(id, kExists); }
  bool IsAdded(int32_t id) const { return Has(id, kAdded); }
  bool IsSpecial(int32_t id) const { return Has(id, kSpecial); }

  // The bytes of one token, not always valid UTF-8 by themselves; empty if there is no token.
  absl::string_view TokenBytes(int32_t id) const;

  // 1 + the largest id. The model's vocabulary (rows of the head) may be larger.
  int vocab_limit() const { return static_cast<int>(tokens_.size()); }

  // Bytes of the longest token. A text of n bytes has at least n / max_token_bytes() tokens, so one
  // that cannot fit a context can be refused before it is encoded.
  size_t max_token_bytes() const { return max_token_bytes_; }

  // XXH3 (64 bit) of the file, 16 hexadecimal digits. Equal files, equal hash.
  const std::string& hash() const { return hash_; }

 private:
  enum Flag : uint8_t { kExists = 1, kAdded = 2, kSpecial = 4 };
  struct Token {
    std::string bytes;
    uint8_t flags = 0;
  };

  Tokenizer(const TokenizerFile& file, PreTokenizer pre_tokenizer, std::string hash);

  bool Has(int32_t id, Flag flag) const {
    return id >= 0 && id < vocab_limit() && (tokens_[id].flags & flag) != 0;
  }
  absl::Status EncodePlain(absl::string_view text, Bpe::Scratch* scratch,
                           std::vector<int32_t>* ids) const;

  std::vector<Token> tokens_;  // by id
  size_t max_token_bytes_ = 1;
  absl::flat_hash_map<std::string, int32_t> added_ids_;
  AddedTokenMatcher added_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  std::string hash_;
};

}  // namespace baleen::tokenizer
