#include "router/chat/python_json.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::chat {
namespace {

using nlohmann::ordered_json;

void Dump(const ordered_json& value, std::string* out);

void DumpObject(const ordered_json& value, std::string* out) {
  out->push_back('{');
  bool first = true;
  for (const auto& [key, member] : value.get_ref<const ordered_json::object_t&>()) {
    if (!first) out->append(", ");
    first = false;
    AppendJsonString(key, out);
    out->append(": ");
    Dump(member, out);
  }
  out->push_back('}');
}

void DumpArray(const ordered_json& value, std::string* out) {
  out->push_back('[');
  bool first = true;
  for (const ordered_json& element : value) {
    if (!first) out->append(", ");
    first = false;
    Dump(element, out);
  }
  out->push_back(']');
}

// Recursion is as deep as the value; ParseJson bounds it.
void Dump(const ordered_json& value, std::string* out) {
  using Type = nlohmann::detail::value_t;
  switch (value.type()) {
    case Type::null:
    case Type::discarded:
      out->append("null");
      return;
    case Type::boolean:
      out->append(value.get<bool>() ? "true" : "false");
      return;
    case Type::number_integer:
      absl::StrAppend(out, value.get<int64_t>());
      return;
    case Type::number_unsigned:
      absl::StrAppend(out, value.get<uint64_t>());
      return;
    case Type::number_float:
      out->append(PythonFloat(value.get<double>()));
      return;
    case Type::binary:
      out->append(value.get_binary().begin(), value.get_binary().end());
      return;
    case Type::string:
      AppendJsonString(value.get_ref<const std::string&>(), out);
      return;
    case Type::array:
      DumpArray(value, out);
      return;
    case Type::object:
      DumpObject(value, out);
      return;
  }
}

bool NeedsEscape(char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; }

void AppendEscape(char c, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  switch (c) {
    case '"':
      out->append("\\\"");
      return;
    case '\\':
      out->append("\\\\");
      return;
    case '\n':
      out->append("\\n");
      return;
    case '\r':
      out->append("\\r");
      return;
    case '\t':
      out->append("\\t");
      return;
    case '\b':
      out->append("\\b");
      return;
    case '\f':
      out->append("\\f");
      return;
    default:
      out->append("\\u00");
      out->push_back(kHex[c >> 4]);
      out->push_back(kHex[c & 15]);
  }
}

}  // namespace

bool IsBigInteger(const ordered_json& value) { return value.is_binary(); }

std::string DumpPythonJson(const ordered_json& value) {
  std::string out;
  Dump(value, &out);
  return out;
}

void AppendJsonEscaped(absl::string_view text, std::string* out) {
  size_t plain = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!NeedsEscape(text[i])) continue;
    out->append(text.data() + plain, i - plain);
    AppendEscape(text[i], out);
    plain = i + 1;
  }
  out->append(text.data() + plain, text.size() - plain);
}

void AppendJsonString(absl::string_view text, std::string* out) {
  out->push_back('"');
  AppendJsonEscaped(text, out);
  out->push_back('"');
}

// Python: the shortest digits that read back the same, in positional form while the decimal
// exponent is in [-4, 16), else as d.ddde+XX.
std::string PythonFloat(double value) {
  BALEEN_CHECK(std::isfinite(value));
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string scientific(buffer, end.ptr);
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  const bool negative = scientific[0] == '-';
  if (exponent < -4 || exponent >= 16) return scientific;

  std::string digits;
  for (char c : scientific.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  std::string text;
  if (exponent < 0) {
    text = absl::StrCat("0.", std::string(size_t(-exponent - 1), '0'), digits);
  } else {
    const size_t whole = size_t(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    const std::string fraction = digits.substr(whole);
    text = absl::StrCat(digits.substr(0, whole), ".", fraction.empty() ? "0" : fraction);
  }
  return negative ? "-" + text : text;
}

}  // namespace baleen::chat
