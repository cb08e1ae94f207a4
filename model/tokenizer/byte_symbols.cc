#include "model/tokenizer/byte_symbols.h"

#include <array>

#include "model/tokenizer/utf8.h"

namespace baleen::tokenizer {
namespace {

constexpr uint32_t kFirstMoved = 0x100;
constexpr uint32_t kMoved = 68;

bool IsItself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Map {
  std::array<std::string, 256> symbol;
  std::array<uint8_t, kFirstMoved + kMoved> byte;  // of a code point below its size
  std::array<bool, kFirstMoved + kMoved> is_symbol;
};

Map MakeMap() {
  Map map;
  map.is_symbol.fill(false);
  uint32_t moved = kFirstMoved;
  for (uint32_t b = 0; b < 256; ++b) {
    const uint32_t code_point = IsItself(b) ? b : moved++;
    AppendUtf8(code_point, &map.symbol[b]);
    map.byte[code_point] = static_cast<uint8_t>(b);
    map.is_symbol[code_point] = true;
  }
  return map;
}

const Map& TheMap() {
  static const Map& map = *new Map(MakeMap());
  return map;
}

}  // namespace

absl::string_view ByteSymbol(uint8_t byte) { return TheMap().symbol[byte]; }

std::optional<std::string> BytesOfSymbols(absl::string_view symbols) {
  const Map& map = TheMap();
  std::string bytes;
  bytes.reserve(symbols.size());
  for (size_t i = 0; i < symbols.size();) {
    uint32_t code_point = static_cast<uint8_t>(symbols[i]);
    const bool two_bytes = code_point >= 0xC2 && code_point <= 0xC5 && i + 1 < symbols.size();
    if (two_bytes) {
      code_point = (code_point & 0x1F) << 6 | (static_cast<uint8_t>(symbols[i + 1]) & 0x3F);
    } else if (code_point >= 0x80) {
      return std::nullopt;
    }
    if (code_point >= map.byte.size() || !map.is_symbol[code_point]) return std::nullopt;
    bytes.push_back(static_cast<char>(map.byte[code_point]));
    i += two_bytes ? 2 : 1;
  }
  return bytes;
}

}  // namespace baleen::tokenizer
