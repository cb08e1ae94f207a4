#include "router/http/percent_decode.h"

#include <gtest/gtest.h>

namespace baleen::router {
namespace {

TEST(PercentDecode, EscapesBecomeBytesAndTheRestStays) {
  EXPECT_EQ(PercentDecode("deepseek-ai%2FDeepSeek-V3.2"), "deepseek-ai/DeepSeek-V3.2");
  EXPECT_EQ(PercentDecode("%e6%BC%A2%20%2525+"), "漢 %25+");
  EXPECT_EQ(PercentDecode("%00"), std::string(1, '\0'));
  for (const char* text : {"", "a/b", "%", "%2", "%zz", "%2g", "100%"})
    EXPECT_EQ(PercentDecode(text), text);
  EXPECT_EQ(PercentDecode("%%41"), "%A");
}

}  // namespace
}  // namespace baleen::router
