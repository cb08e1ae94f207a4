#include "model/tokenizer/byte_symbols.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace baleen::tokenizer {
namespace {

TEST(ByteSymbols, AreThoseOfTheSpecification) {
  EXPECT_EQ(ByteSymbol('!'), "!");
  EXPECT_EQ(ByteSymbol('~'), "~");
  EXPECT_EQ(ByteSymbol(0x00), "Ā");
  EXPECT_EQ(ByteSymbol('\n'), "Ċ");
  EXPECT_EQ(ByteSymbol(' '), "Ġ");
  EXPECT_EQ(ByteSymbol(0x7F), "ġ");
  EXPECT_EQ(ByteSymbol(0xA1), "¡");
  EXPECT_EQ(ByteSymbol(0xAD), "Ń");  // the 68th that moved: U+0143
  EXPECT_EQ(ByteSymbol(0xFF), "ÿ");
}

TEST(ByteSymbols, EveryByteComesBack) {
  std::string bytes, symbols;
  std::set<std::string> distinct;
  for (int b = 0; b < 256; ++b) {
    const std::string symbol(ByteSymbol(static_cast<uint8_t>(b)));
    bytes.push_back(static_cast<char>(b));
    symbols += symbol;
    distinct.insert(symbol);
  }
  EXPECT_EQ(BytesOfSymbols(symbols), bytes);
  EXPECT_EQ(distinct.size(), 256u);
}

TEST(ByteSymbols, OtherCharactersAreNone) {
  EXPECT_EQ(BytesOfSymbols(""), "");
  for (const char* text :
       {" ", "a b", "\n", "\u00A0", "\u00AD", "\u0144", "<｜User｜>", "中", "😀"}) {
    EXPECT_EQ(BytesOfSymbols(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace baleen::tokenizer
