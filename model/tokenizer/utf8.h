#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace baleen::tokenizer {

enum class Utf8Kind : uint8_t {
  kValid,      // one whole code point
  kInvalid,    // a maximal ill-formed subpart (Unicode 15 section 3.9, table 3-7)
  kIncomplete  // the text ends inside a sequence that is valid so far
};

struct Utf8Unit {
  Utf8Kind kind;
  size_t bytes;  // 1 to 4
};

// What `text` begins with. `text` is not empty.
Utf8Unit NextUtf8(absl::string_view text);

// Offset of the first byte of the first sequence that is not valid UTF-8 (a cut-off one at the end
// included); nullopt when all is valid. Surrogates and overlong forms are invalid.
std::optional<size_t> FirstInvalidUtf8(absl::string_view text);

// U+FFFD, which stands for one invalid or cut-off sequence.
inline constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// Appends the UTF-8 form of `code_point` (at most 0x10FFFF, no surrogate).
void AppendUtf8(uint32_t code_point, std::string* out);

}  // namespace baleen::tokenizer
