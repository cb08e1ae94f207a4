#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "model/tokenizer/byte_symbols.h"
#include "nlohmann/json.hpp"

namespace baleen::testing {

using Json = nlohmann::json;

inline Json AddedTokenJson(int id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", !special}, {"special", special}};
}

// The pre-tokeniser of DeepSeek-V3's tokenizer.json (section 6.1 of the model's specification).
inline Json DeepSeekPreTokenizerJson() {
  const auto split = [](const char* regex) {
    return Json{{"type", "Split"},
                {"pattern", {{"Regex", regex}}},
                {"behavior", "Isolated"},
                {"invert", false}};
  };
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  return {
      {"type", "Sequence"},
      {"pretokenizers", Json::array({split("\\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
                                     split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
                                           "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                                           " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
                                     byte_level})}};
}

// A valid file whose vocabulary is ids 0-2 (special) and the 256 bytes, 3-258 in the order of
// their symbols' code points, as in the real file; no merges. Tests add to it or break it.
inline Json SmallTokenizerJson() {
  const char* special[] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
  Json vocab = Json::object();
  Json added = Json::array();
  for (int id = 0; id < 3; ++id) {
    vocab[special[id]] = id;
    added.push_back(AddedTokenJson(id, special[id], true));
  }
  int id = 3;
  std::vector<std::string> symbols;
  for (int byte = 0; byte < 256; ++byte) {
    symbols.emplace_back(tokenizer::ByteSymbol(static_cast<uint8_t>(byte)));
  }
  std::sort(symbols.begin(), symbols.end());  // UTF-8 sorts by code point
  for (const std::string& symbol : symbols) vocab[symbol] = id++;
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", Json::array()}}},
          {"pre_tokenizer", DeepSeekPreTokenizerJson()},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

// SmallTokenizerJson with `merges` ("a", "b" in byte symbols), their results numbered from 259.
inline Json TokenizerJsonWithMerges(
    const std::vector<std::pair<std::string, std::string>>& merges) {
  Json file = SmallTokenizerJson();
  int id = 259;
  for (const auto& [left, right] : merges) {
    file["model"]["merges"].push_back(left + " " + right);
    if (!file["model"]["vocab"].contains(left + right)) {
      file["model"]["vocab"][left + right] = id++;
    }
  }
  return file;
}

// A file of the size of DeepSeek-V3's: 128,815 tokens, 127,741 merges, 818 added tokens. The
// merges are random, first of pairs of letters, then of ever longer tokens up to 12 bytes.
inline Json FullSizeTokenizerJson(bool merges_as_pairs) {
  constexpr int kMerges = 127741;
  constexpr int kFirstAdded = 128000;
  Json file = SmallTokenizerJson();
  std::mt19937 rng(20240607);
  std::vector<std::string> tokens = {"Ġ", "Ġ", "Ċ"};
  for (char c = 'a'; c <= 'z'; ++c) tokens.insert(tokens.end(), 3, std::string(1, c));
  for (char c = '!'; c <= '~'; ++c) tokens.push_back(std::string(1, c));
  for (int byte = 0x80; byte < 0x100; ++byte) {
    tokens.emplace_back(tokenizer::ByteSymbol(static_cast<uint8_t>(byte)));
  }
  std::unordered_set<std::string> seen;
  Json& vocab = file["model"]["vocab"];
  Json& merges = file["model"]["merges"];
  int id = 259;
  while (merges.size() < kMerges) {
    const std::string& left = tokens[rng() % tokens.size()];
    const std::string& right = tokens[rng() % tokens.size()];
    std::string both = left + right;
    if (both.size() > 12 || !seen.insert(both).second) continue;
    merges.push_back(merges_as_pairs ? Json{left, right} : Json(left + " " + right));
    vocab[both] = id++;
    tokens.push_back(std::move(both));
  }
  for (int i = 0; i < 815; ++i) {
    const std::string content = "<｜place▁holder▁no▁" + std::to_string(i) + "｜>";
    file["added_tokens"].push_back(AddedTokenJson(kFirstAdded + i, content, i < 800));
  }
  return file;
}

}  // namespace baleen::testing
