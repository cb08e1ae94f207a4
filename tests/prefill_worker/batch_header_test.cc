#include "prefill_worker/batch_header.h"

#include <gtest/gtest.h>

namespace baleen::prefill_worker {
namespace {

BatchHeader Example() {
  return {.number = 9,
          .starts = {{.attempt = {1},
                      .decode = {2},
                      .prompt = {0, 5, 6},
                      .pages = {17},
                      .cached_tokens = 64,
                      .sampling = std::string("\x08\x01", 2)},
                     {.attempt = {3}}},
          .entries = {{.attempt = {1}, .first = 64, .rows = 2}},
          .aborts = {{{4}, 1, "cancelled"}, {{5}, 13, ""}}};
}

TEST(BatchHeader, ReadsBackWhatWasWritten) {
  const auto decoded = DecodeBatchHeader(Encode(Example()));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(*decoded, Example());
  EXPECT_EQ(decoded->rows(), 2);
}

TEST(BatchHeader, EveryTruncationAndLeftoverIsRefused) {
  auto bytes = Encode(Example());
  for (size_t n = 0; n < bytes.size(); ++n)
    EXPECT_FALSE(DecodeBatchHeader(std::span(bytes).first(n)).ok()) << n;
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(DecodeBatchHeader(bytes).ok());
}

}  // namespace
}  // namespace baleen::prefill_worker
