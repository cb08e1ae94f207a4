#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace baleen::tokenizer {

// GPT-2's byte-level map, in which tokenizer.json writes its tokens: every byte is one printable
// code point. 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF are themselves; the other 68 bytes, in increasing
// order, are U+0100, U+0101, ... (section 6.1 step 4 of the model's specification).

// The symbol of a byte, as UTF-8.
absl::string_view ByteSymbol(uint8_t byte);

// The bytes that a string of symbols stands for; nullopt if a code point is no symbol.
std::optional<std::string> BytesOfSymbols(absl::string_view symbols);

}  // namespace baleen::tokenizer
