#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace baleen::chat {

// JSON as Python's json module reads and writes it, because the model was trained on prompts made
// with json.dumps(ensure_ascii=False).

struct JsonLimits {
  int depth = 128;  // nested arrays and objects
};

// Parses one JSON text. Unlike nlohmann's own parser it
//   - keeps integers of any size exactly (see IsBigInteger),
//   - is linear in the number of keys of an object, and puts the last value of a repeated key where
//     the key stood first, as Python's dict does,
//   - refuses too deep nesting, numbers beyond double's range and integers over 4,300 digits
//     (Python's own limit).
// NaN, Infinity, comments, trailing commas, invalid UTF-8 and lone surrogates are errors.
// InvalidArgument: "byte N: what was wrong"; N counts from 0.
absl::StatusOr<nlohmann::ordered_json> ParseJson(absl::string_view text, JsonLimits limits = {});

// Whether `value` is an integer outside 64 bits. Such a value holds its digits as nlohmann's binary
// type (which JSON text never has), so is_number() is false for it.
bool IsBigInteger(const nlohmann::ordered_json& value);

// json.dumps(value, ensure_ascii=False): separators ", " and ": ", key order kept, floats as repr()
// writes them (1.0, 1e-05, 1e+16).
std::string DumpPythonJson(const nlohmann::ordered_json& value);

// Appends `text` (UTF-8) between quotes: escapes " \ and controls below 0x20 only.
void AppendJsonString(absl::string_view text, std::string* out);
// The same without the quotes, for text that arrives in pieces.
void AppendJsonEscaped(absl::string_view text, std::string* out);

// repr(value) of a finite double.
std::string PythonFloat(double value);

}  // namespace baleen::chat
