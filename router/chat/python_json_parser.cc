#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/charconv.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "router/chat/python_json.h"

namespace baleen::chat {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxIntegerDigits = 4300;
constexpr size_t kSmallObject = 16;  // up to here a linear search is faster than a table

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Bytes of the well-formed UTF-8 sequence at the start of `s`, which is not ASCII; 0 if there is
// none. Table 3-7 of the Unicode standard.
size_t Utf8Length(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t lead = byte(0);
  const size_t n = lead >= 0xC2 && lead <= 0xDF   ? 2
                   : lead >= 0xE0 && lead <= 0xEF ? 3
                   : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                  : 0;
  if (n == 0 || s.size() < n) return 0;
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < n; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return n;
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

// The members of an object being read. A repeated key keeps its first place and takes the new
// value.
class Members {
 public:
  void Put(std::string key, ordered_json value) {
    if (ordered_json* old = Find(key)) {
      *old = std::move(value);
      return;
    }
    if (!index_.empty()) index_.emplace(key, object_.size());
    object_.emplace_back(std::move(key), std::move(value));
    if (object_.size() == kSmallObject) BuildIndex();
  }
  ordered_json Take() { return ordered_json(std::move(object_)); }

 private:
  ordered_json* Find(const std::string& key) {
    if (!index_.empty()) {
      const auto it = index_.find(key);
      return it == index_.end() ? nullptr : &(object_.begin() + it->second)->second;
    }
    for (auto& [name, value] : object_) {
      if (name == key) return &value;
    }
    return nullptr;
  }
  void BuildIndex() {
    for (const auto& [key, value] : object_) index_.emplace(key, index_.size());
  }

  ordered_json::object_t object_;                   // a vector of pairs
  absl::flat_hash_map<std::string, size_t> index_;  // key -> place; empty while small
};

class Reader {
 public:
  Reader(absl::string_view text, JsonLimits limits) : text_(text), limits_(limits) {}

  absl::StatusOr<ordered_json> Document() {
    BALEEN_ASSIGN_OR_RETURN(ordered_json value, Value(0));
    SkipSpace();
    if (pos_ != text_.size()) return Error("expected the end after the value");
    return value;
  }

 private:
  absl::Status ErrorAt(size_t at, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("byte ", at, ": ", what));
  }
  absl::Status Error(absl::string_view what) const {
    return ErrorAt(pos_,
                   pos_ < text_.size() ? std::string(what) : absl::StrCat("the text ends; ", what));
  }
  char Peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }
  bool Eat(char c) {
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }
  void SkipSpace() {
    while (pos_ < text_.size() && (text_[pos_] == ' ' || text_[pos_] == '\n' ||
                                   text_[pos_] == '\r' || text_[pos_] == '\t')) {
      ++pos_;
    }
  }

  absl::StatusOr<ordered_json> Value(int depth) {
    SkipSpace();
    switch (Peek()) {
      case '{':
        return Object(depth + 1);
      case '[':
        return Array(depth + 1);
      case '"': {
        BALEEN_ASSIGN_OR_RETURN(std::string s, String());
        return ordered_json(std::move(s));
      }
      case 't':
        return Word("true", true);
      case 'f':
        return Word("false", false);
      case 'n':
        return Word("null", nullptr);
      default:
        if (Peek() == '-' || IsDigit(Peek())) return Number();
        return Error("expected a value");
    }
  }

  absl::StatusOr<ordered_json> Word(absl::string_view word, ordered_json value) {
    if (text_.substr(pos_, word.size()) != word) return Error("expected a value");
    pos_ += word.size();
    return value;
  }

  absl::StatusOr<ordered_json> Array(int depth) {
    if (depth > limits_.depth) return Error(TooDeep());
    ++pos_;
    ordered_json::array_t array;
    SkipSpace();
    if (Eat(']')) return ordered_json(std::move(array));
    while (true) {
      BALEEN_ASSIGN_OR_RETURN(ordered_json element, Value(depth));
      array.push_back(std::move(element));
      SkipSpace();
      if (Eat(']')) return ordered_json(std::move(array));
      if (!Eat(',')) return Error("expected ',' or ']'");
    }
  }

  absl::StatusOr<ordered_json> Object(int depth) {
    if (depth > limits_.depth) return Error(TooDeep());
    ++pos_;
    Members members;
    SkipSpace();
    if (Eat('}')) return members.Take();
    while (true) {
      SkipSpace();
      if (Peek() != '"') return Error("expected a key in quotes");
      BALEEN_ASSIGN_OR_RETURN(std::string key, String());
      SkipSpace();
      if (!Eat(':')) return Error("expected ':'");
      BALEEN_ASSIGN_OR_RETURN(ordered_json value, Value(depth));
      members.Put(std::move(key), std::move(value));
      SkipSpace();
      if (Eat('}')) return members.Take();
      if (!Eat(',')) return Error("expected ',' or '}'");
    }
  }
  std::string TooDeep() const { return absl::StrCat("nested deeper than ", limits_.depth); }

  absl::StatusOr<std::string> String() {
    std::string out;
    ++pos_;
    while (true) {
      const size_t plain = pos_;
      while (pos_ < text_.size() && IsPlain(text_[pos_])) ++pos_;
      out.append(text_.data() + plain, pos_ - plain);
      if (pos_ >= text_.size()) return Error("a string has no end");
      if (Eat('"')) return out;
      if (text_[pos_] == '\\') {
        BALEEN_RETURN_IF_ERROR(Escape(&out));
      } else if (static_cast<uint8_t>(text_[pos_]) < 0x20) {
        return Error("a control character in a string must be escaped");
      } else {
        const size_t n = Utf8Length(text_.substr(pos_));
        if (n == 0) return Error("invalid UTF-8");
        out.append(text_.data() + pos_, n);
        pos_ += n;
      }
    }
  }
  static bool IsPlain(char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
  }

  absl::Status Escape(std::string* out) {
    constexpr absl::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    ++pos_;
    if (Eat('u')) return UnicodeEscape(out);
    const size_t i = pos_ < text_.size() ? kFrom.find(text_[pos_]) : absl::string_view::npos;
    if (i == absl::string_view::npos) return Error("unknown escape");
    out->push_back(kTo[i]);
    ++pos_;
    return absl::OkStatus();
  }

  absl::Status UnicodeEscape(std::string* out) {
    const size_t start = pos_ - 2;
    BALEEN_ASSIGN_OR_RETURN(uint32_t unit, HexUnit());
    if (unit >= 0xDC00 && unit <= 0xDFFF) return ErrorAt(start, "a lone surrogate");
    if (unit >= 0xD800 && unit <= 0xDBFF) {
      if (!Eat('\\') || !Eat('u')) return ErrorAt(start, "a lone surrogate");
      BALEEN_ASSIGN_OR_RETURN(const uint32_t low, HexUnit());
      if (low < 0xDC00 || low > 0xDFFF) return ErrorAt(start, "a lone surrogate");
      unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(unit, out);
    return absl::OkStatus();
  }

  absl::StatusOr<uint32_t> HexUnit() {
    uint32_t unit = 0;
    for (int i = 0; i < 4; ++i, ++pos_) {
      const char c = Peek();
      const uint32_t digit = IsDigit(c)             ? c - '0'
                             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                    : 16;
      if (digit == 16) return Error("expected four hexadecimal digits");
      unit = unit << 4 | digit;
    }
    return unit;
  }

  // False if there was none.
  bool EatDigits() {
    const size_t start = pos_;
    while (IsDigit(Peek())) ++pos_;
    return pos_ > start;
  }

  absl::StatusOr<ordered_json> Number() {
    const size_t start = pos_;
    Eat('-');
    const size_t digits = pos_;
    if (!Eat('0') && !EatDigits()) return Error("expected a digit");
    if (IsDigit(Peek())) return Error("a number must not begin with 0");
    const size_t digit_count = pos_ - digits;
    bool integer = true;
    if (Eat('.')) {
      integer = false;
      if (!EatDigits()) return Error("expected a digit");
    }
    if (Peek() == 'e' || Peek() == 'E') {
      integer = false;
      ++pos_;
      if (!Eat('+')) Eat('-');
      if (!EatDigits()) return Error("expected a digit");
    }
    const absl::string_view number = text_.substr(start, pos_ - start);
    if (!integer) return Float(number, start);
    if (digit_count > kMaxIntegerDigits) {
      return ErrorAt(start, absl::StrCat("an integer of over ", kMaxIntegerDigits, " digits"));
    }
    return Integer(number);
  }

  static ordered_json Integer(absl::string_view number) {
    if (number == "-0") return ordered_json(int64_t{0});
    if (uint64_t value; number[0] != '-' && absl::SimpleAtoi(number, &value)) {
      return ordered_json(value);
    }
    if (int64_t value; absl::SimpleAtoi(number, &value)) return ordered_json(value);
    return ordered_json::binary({number.begin(), number.end()});
  }

  absl::StatusOr<ordered_json> Float(absl::string_view number, size_t start) {
    double value = 0;
    const auto result = absl::from_chars(number.data(), number.data() + number.size(), value);
    // Too small a number becomes 0, as in Python; too large a one the largest double.
    if (result.ec == std::errc::result_out_of_range && std::abs(value) > 1) {
      return ErrorAt(start, "a number out of range");
    }
    return ordered_json(value);
  }

  const absl::string_view text_;
  const JsonLimits limits_;
  size_t pos_ = 0;
};

}  // namespace

absl::StatusOr<ordered_json> ParseJson(absl::string_view text, JsonLimits limits) {
  return Reader(text, limits).Document();
}

}  // namespace baleen::chat
