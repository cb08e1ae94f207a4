#include "model/tokenizer/tokenizer_file.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/tokenizer/byte_symbols.h"
#include "nlohmann/json.hpp"

namespace baleen::tokenizer {
namespace {

using Json = nlohmann::json;
using SymbolIds = absl::flat_hash_map<absl::string_view, int32_t>;

// Bounds the tables that are indexed by id.
constexpr int64_t kMaxId = (1 << 24) - 1;

// The parser's steps in the order of their needs; each fills a part of `out_`.
class Parser {
 public:
  Parser(const Json& root, absl::string_view name) : root_(root), name_(name) {}

  absl::StatusOr<TokenizerFile> Parse() {
    BALEEN_RETURN_IF_ERROR(ParseModel());
    BALEEN_RETURN_IF_ERROR(ParseAddedTokens());
    BALEEN_RETURN_IF_ERROR(CheckNormalizer());
    BALEEN_RETURN_IF_ERROR(ParsePreTokenizer());
    BALEEN_RETURN_IF_ERROR(CheckDecoder());
    return std::move(out_);
  }

 private:
  absl::Status ParseModel();
  absl::Status CheckModelOptions(const Json& model);
  absl::Status ParseVocab(const Json& vocab, SymbolIds* ids);
  absl::Status FindByteTokens(const SymbolIds& ids);
  absl::Status ParseMerges(const Json& merges, const SymbolIds& ids);
  absl::Status ParseMerge(const Json& entry, const std::string& field, const SymbolIds& ids);
  absl::Status ParseAddedTokens();
  absl::Status ParseAddedToken(const Json& entry, const std::string& field);
  absl::Status CheckNormalizer();
  absl::Status ParsePreTokenizer();
  absl::Status ParseSplit(const Json& split, const std::string& field);
  absl::Status CheckByteLevel(const Json& step, const std::string& field);
  absl::Status CheckDecoder();

  absl::Status Bad(absl::string_view field, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", field, ": ", what));
  }
  absl::Status Unsupported(absl::string_view field, absl::string_view what) const {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, ": ", field, ": ", what, " is not supported"));
  }

  const Json& root_;
  const absl::string_view name_;
  TokenizerFile out_;
};

// The member, or null where the object has none.
const Json& Member(const Json& object, const char* key) {
  static const Json& null = *new Json();
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

// For messages: the value of a "type" field, or of any other short field.
std::string Show(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80);
}

std::string TypeOf(const Json& object) {
  return object.is_object() ? Show(Member(object, "type")) : Show(object);
}

bool IsTrue(const Json& value) { return value.is_boolean() && value.get<bool>(); }

absl::Status Parser::ParseModel() {
  if (!root_.is_object()) return Bad("(file)", "not a JSON object");
  const Json& model = Member(root_, "model");
  if (!model.is_object()) return Bad("model", "missing or not an object");
  BALEEN_RETURN_IF_ERROR(CheckModelOptions(model));
  const Json& vocab = Member(model, "vocab");
  if (!vocab.is_object()) return Bad("model.vocab", "missing or not an object");
  const Json& merges = Member(model, "merges");
  if (!merges.is_array()) return Bad("model.merges", "missing or not an array");
  SymbolIds ids;
  BALEEN_RETURN_IF_ERROR(ParseVocab(vocab, &ids));
  BALEEN_RETURN_IF_ERROR(FindByteTokens(ids));
  return ParseMerges(merges, ids);
}

absl::Status Parser::CheckModelOptions(const Json& model) {
  // Old files leave the type out; only BPE has merges.
  const Json& type = Member(model, "type");
  if (!type.is_null() && type != "BPE") return Unsupported("model.type", Show(type));
  if (IsTrue(Member(model, "byte_fallback"))) return Unsupported("model.byte_fallback", "true");
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return Unsupported("model.dropout", Show(dropout));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = Member(model, affix);
    if (!value.is_null() && value != "") {
      return Unsupported(absl::StrCat("model.", affix), Show(value));
    }
  }
  out_.ignore_merges = IsTrue(Member(model, "ignore_merges"));
  return absl::OkStatus();
}

absl::Status Parser::ParseVocab(const Json& vocab, SymbolIds* ids) {
  out_.vocab.reserve(vocab.size());
  ids->reserve(vocab.size());
  absl::flat_hash_set<int32_t> seen;
  seen.reserve(vocab.size());
  for (const auto& entry : vocab.get_ref<const Json::object_t&>()) {
    const std::string& symbols = entry.first;
    const Json& id = entry.second;
    const auto field = [&symbols] { return absl::StrCat("model.vocab[", Show(symbols), "]"); };
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId) {
      return Bad(field(), absl::StrCat("id ", Show(id), " is not an integer in 0..", kMaxId));
    }
    if (!seen.insert(id.get<int32_t>()).second) {
      return Bad(field(), absl::StrCat("id ", Show(id), " belongs to another token too"));
    }
    // Added tokens are often listed here as well; what is no byte symbol stands for itself.
    std::optional<std::string> bytes = BytesOfSymbols(symbols);
    const bool spells_bytes = bytes.has_value();
    out_.vocab.push_back(
        {spells_bytes ? *std::move(bytes) : symbols, id.get<int32_t>(), spells_bytes});
    ids->emplace(symbols, id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status Parser::FindByteTokens(const SymbolIds& ids) {
  for (int byte = 0; byte < 256; ++byte) {
    const absl::string_view symbol = ByteSymbol(static_cast<uint8_t>(byte));
    const auto it = ids.find(symbol);
    if (it == ids.end()) {
      return Bad("model.vocab", absl::StrCat("no token for the single byte ", byte, " ('", symbol,
                                             "'): not a byte-level vocabulary"));
    }
    out_.byte_ids[byte] = it->second;
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseMerges(const Json& merges, const SymbolIds& ids) {
  out_.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const absl::Status status = ParseMerge(merges[i], {}, ids);
    // Once more with the field's name, which is costly to make for every entry.
    if (!status.ok()) return ParseMerge(merges[i], absl::StrCat("model.merges[", i, "]"), ids);
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseMerge(const Json& entry, const std::string& field, const SymbolIds& ids) {
  absl::string_view left, right;
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    left = entry[0].get_ref<const std::string&>();
    right = entry[1].get_ref<const std::string&>();
  } else if (entry.is_string()) {
    const absl::string_view both = entry.get_ref<const std::string&>();
    const size_t space = both.find(' ');
    if (space == both.npos || both.find(' ', space + 1) != both.npos) {
      return Bad(field, absl::StrCat(Show(entry), " is not two tokens with one space between"));
    }
    left = both.substr(0, space);
    right = both.substr(space + 1);
  } else {
    return Bad(field, absl::StrCat(Show(entry), " is neither \"a b\" nor [\"a\", \"b\"]"));
  }
  const std::string merged = absl::StrCat(left, right);
  int32_t found[3];
  int n = 0;
  for (const absl::string_view token : {left, right, absl::string_view(merged)}) {
    const auto it = ids.find(token);
    if (it == ids.end()) return Bad(field, absl::StrCat("'", token, "' is not in model.vocab"));
    found[n++] = it->second;
  }
  out_.merges.push_back({found[0], found[1], found[2]});
  return absl::OkStatus();
}

absl::Status Parser::ParseAddedTokens() {
  const Json& list = Member(root_, "added_tokens");
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array()) return Bad("added_tokens", "not an array");
  for (size_t i = 0; i < list.size(); ++i) {
    BALEEN_RETURN_IF_ERROR(ParseAddedToken(list[i], absl::StrCat("added_tokens[", i, "]")));
  }
  absl::flat_hash_map<int32_t, absl::string_view> by_id;
  absl::flat_hash_map<absl::string_view, int32_t> by_content;
  for (const AddedToken& token : out_.added_tokens) {
    if (!by_id.emplace(token.id, token.content).second) {
      return Bad("added_tokens", absl::StrCat("id ", token.id, " occurs twice"));
    }
    if (!by_content.emplace(token.content, token.id).second) {
      return Bad("added_tokens", absl::StrCat("content '", token.content, "' occurs twice"));
    }
  }
  // An added token may be in the vocabulary too, but then as the same pair of text and id.
  const Json& vocab = Member(Member(root_, "model"), "vocab");
  for (const auto& [symbols, id] : vocab.get_ref<const Json::object_t&>()) {
    const auto same_id = by_id.find(id.get<int32_t>());
    const auto same_text = by_content.find(symbols);
    if ((same_id == by_id.end() || same_id->second == symbols) &&
        (same_text == by_content.end() || same_text->second == id)) {
      continue;
    }
    return Bad("added_tokens", absl::StrCat("clashes with model.vocab, where ", Show(symbols),
                                            " has id ", Show(id)));
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseAddedToken(const Json& entry, const std::string& field) {
  if (!entry.is_object()) return Bad(field, "not an object");
  const Json& id = Member(entry, "id");
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId) {
    return Bad(field + ".id", absl::StrCat(Show(id), " is not an integer in 0..", kMaxId));
  }
  const Json& content = Member(entry, "content");
  if (!content.is_string() || content == "") {
    return Bad(field + ".content", "missing, not a string or empty");
  }
  for (const char* option : {"single_word", "lstrip", "rstrip"}) {
    if (IsTrue(Member(entry, option))) {
      return Unsupported(absl::StrCat(field, ".", option), "true");
    }
  }
  out_.added_tokens.push_back(
      {content.get<std::string>(), id.get<int32_t>(), IsTrue(Member(entry, "special"))});
  return absl::OkStatus();
}

absl::Status Parser::CheckNormalizer() {
  const Json& normalizer = Member(root_, "normalizer");
  if (normalizer.is_null()) return absl::OkStatus();
  const bool is_empty_sequence = normalizer.is_object() &&
                                 Member(normalizer, "type") == "Sequence" &&
                                 Member(normalizer, "normalizers").empty();
  if (is_empty_sequence) return absl::OkStatus();
  return Unsupported("normalizer", TypeOf(normalizer));
}

absl::Status Parser::ParsePreTokenizer() {
  const Json& outer = Member(root_, "pre_tokenizer");
  if (!outer.is_object()) return Bad("pre_tokenizer", "missing or not an object");
  if (Member(outer, "type") == "ByteLevel") return CheckByteLevel(outer, "pre_tokenizer");
  if (Member(outer, "type") != "Sequence") {
    return Unsupported("pre_tokenizer.type", TypeOf(outer));
  }
  const Json& steps = Member(outer, "pretokenizers");
  if (!steps.is_array() || steps.empty()) {
    return Bad("pre_tokenizer.pretokenizers", "missing, not an array or empty");
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string field = absl::StrCat("pre_tokenizer.pretokenizers[", i, "]");
    const bool is_last = i + 1 == steps.size();
    if (is_last) return CheckByteLevel(steps[i], field);
    BALEEN_RETURN_IF_ERROR(ParseSplit(steps[i], field));
  }
  return absl::OkStatus();
}

absl::Status Parser::ParseSplit(const Json& split, const std::string& field) {
  if (!split.is_object() || Member(split, "type") != "Split") {
    return Unsupported(field + ".type", TypeOf(split) + " before the last step");
  }
  if (Member(split, "behavior") != "Isolated") {
    return Unsupported(field + ".behavior", Show(Member(split, "behavior")));
  }
  if (IsTrue(Member(split, "invert"))) return Unsupported(field + ".invert", "true");
  const Json& pattern = Member(split, "pattern");
  if (!pattern.is_object() || !Member(pattern, "Regex").is_string()) {
    return Unsupported(field + ".pattern", Show(pattern));
  }
  out_.split_patterns.push_back(Member(pattern, "Regex").get<std::string>());
  return absl::OkStatus();
}

absl::Status Parser::CheckByteLevel(const Json& step, const std::string& field) {
  if (!step.is_object() || Member(step, "type") != "ByteLevel") {
    return Unsupported(field + ".type", TypeOf(step) + " as the last step");
  }
  // Both default to true in the reference library, so they must be there and false.
  for (const char* option : {"add_prefix_space", "use_regex"}) {
    const Json& value = Member(step, option);
    if (!value.is_boolean() || value.get<bool>()) {
      return Unsupported(absl::StrCat(field, ".", option), Show(value));
    }
  }
  return absl::OkStatus();
}

absl::Status Parser::CheckDecoder() {
  const Json& decoder = Member(root_, "decoder");
  if (decoder.is_object() && Member(decoder, "type") == "ByteLevel") return absl::OkStatus();
  return Unsupported("decoder.type", TypeOf(decoder));
}

}  // namespace

absl::StatusOr<TokenizerFile> ParseTokenizerFile(absl::string_view json, absl::string_view name) {
  Json root;
  // The one place that translates this library's exceptions; its message has the byte offset.
  try {
    root = Json::parse(json.begin(), json.end());
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not JSON: ", error.what()));
  }
  return Parser(root, name).Parse();
}

}  // namespace baleen::tokenizer
