#include "model/tokenizer/tokenizer.h"

#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "model/tokenizer/detokenizer.h"
#include "model/tokenizer/utf8.h"

namespace baleen::tokenizer {
namespace {

// Positions inside a piece are 32 bit.
constexpr size_t kMaxTextBytes = std::numeric_limits<int32_t>::max();

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  }
  const std::streamoff bytes = file.tellg();
  if (bytes < 0 || bytes == std::numeric_limits<std::streamoff>::max()) {  // a directory
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  file.seekg(0);
  if (!file.read(text.data(), bytes)) {
    return absl::DataLossError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  BALEEN_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  return Parse(json, path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(absl::string_view json,
                                                            absl::string_view name) {
  BALEEN_ASSIGN_OR_RETURN(const TokenizerFile file, ParseTokenizerFile(json, name));
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(file.split_patterns);
  if (!pre_tokenizer.ok()) {
    return absl::Status(
        pre_tokenizer.status().code(),
        absl::StrCat(name, ": pre_tokenizer.pretokenizers: ", pre_tokenizer.status().message()));
  }
  std::string hash =
      absl::StrFormat("%016x", static_cast<uint64_t>(XXH3_64bits(json.data(), json.size())));
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(file, *std::move(pre_tokenizer), std::move(hash)));
}

Tokenizer::Tokenizer(const TokenizerFile& file, PreTokenizer pre_tokenizer, std::string hash)
    : added_(file.added_tokens),
      pre_tokenizer_(std::move(pre_tokenizer)),
      bpe_(file),
      hash_(std::move(hash)) {
  int32_t limit = 0;
  for (const VocabToken& token : file.vocab) limit = std::max(limit, token.id + 1);
  for (const AddedToken& token : file.added_tokens) limit = std::max(limit, token.id + 1);
  tokens_.resize(static_cast<size_t>(limit));
  for (const VocabToken& token : file.vocab) tokens_[token.id] = {token.bytes, kExists};
  for (const AddedToken& token : file.added_tokens) {
    const int special = token.special ? kSpecial : 0;
    tokens_[token.id] = {token.content, static_cast<uint8_t>(kExists | kAdded | special)};
    added_ids_.emplace(token.content, token.id);
  }
  for (const Token& token : tokens_) {
    max_token_bytes_ = std::max(max_token_bytes_, token.bytes.size());
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes, the limit is ", kMaxTextBytes));
  }
  if (const std::optional<size_t> bad = FirstInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", *bad));
  }
  std::vector<int32_t> ids;
  Bpe::Scratch scratch;
  size_t done = 0;
  while (options.split_added_tokens && done < text.size()) {
    const std::optional<AddedTokenMatcher::Match> match = added_.Find(text, done);
    if (!match) break;
    BALEEN_RETURN_IF_ERROR(EncodePlain(text.substr(done, match->begin - done), &scratch, &ids));
    ids.push_back(match->id);
    done = match->end;
  }
  BALEEN_RETURN_IF_ERROR(EncodePlain(text.substr(done), &scratch, &ids));
  return ids;
}

absl::Status Tokenizer::EncodePlain(absl::string_view text, Bpe::Scratch* scratch,
                                    std::vector<int32_t>* ids) const {
  return pre_tokenizer_.ForEachPiece(
      text, [&](absl::string_view piece) { bpe_.Encode(piece, scratch, ids); });
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  text += detokenizer.Finish();
  return text;
}

std::optional<int32_t> Tokenizer::TokenId(absl::string_view added) const {
  const auto it = added_ids_.find(added);
  return it == added_ids_.end() ? std::nullopt : std::optional(it->second);
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  return HasToken(id) ? absl::string_view(tokens_[id].bytes) : absl::string_view();
}

}  // namespace baleen::tokenizer
