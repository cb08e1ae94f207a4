// Deterministic mutations of a small valid file, for compilers without libFuzzer.
#include <random>

#include "gtest/gtest.h"
#include "tests/fuzz/safetensors_header.h"
#include "tests/model/test_checkpoint.h"

namespace baleen::fuzz {
namespace {

constexpr int kMutants = 200000;

std::string Seed() {
  return testing::SafetensorsBytes(
      testing::TestTensors{{"a", {"F32", {2, 2}, std::string(16, 'x')}},
                           {"b", {"F8_E4M3", {3}, "abc"}},
                           {"c", {"BF16", {}, "de"}}});
}

// Changes one to four places: a bit, a byte, a piece removed, repeated, or taken from the format's
// own words and numbers.
void Mutate(std::string& s, std::mt19937& rng) {
  static const std::string kWords[] = {"{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       ":",
                                       "\"",
                                       "-1",
                                       "0",
                                       "1e9",
                                       "null",
                                       "18446744073709551615",
                                       "9223372036854775808",
                                       "\"shape\"",
                                       "\"data_offsets\"",
                                       "\"dtype\"",
                                       "\"F32\"",
                                       "__metadata__",
                                       "\\u0000",
                                       "\xff\xfe"};
  for (unsigned n = 1 + rng() % 4; n > 0 && !s.empty(); --n) {
    const size_t at = rng() % s.size();
    switch (rng() % 5) {
      case 0:
        s[at] = static_cast<char>(s[at] ^ (1 << rng() % 8));
        break;
      case 1:
        s[at] = static_cast<char>(rng());
        break;
      case 2:
        s.erase(at, 1 + rng() % 16);
        break;
      case 3:
        s.insert(rng() % s.size(), s.substr(at, 1 + rng() % 32));
        break;
      case 4:
        s.insert(at, kWords[rng() % std::size(kWords)]);
        break;
    }
  }
}

TEST(SafetensorsFuzz, MutantsNeverBreakAPromise) {
  const std::string seed = Seed();
  ASSERT_TRUE(TryHeader(std::as_bytes(std::span(seed))));
  std::mt19937 rng(20251124);
  RecordProperty("seed", 20251124);
  int accepted = 0;
  for (int i = 0; i < kMutants; ++i) {
    std::string mutant = seed;
    Mutate(mutant, rng);
    // Half of the mutants keep a true header length, so that the JSON is reached.
    if (rng() % 2 == 0 && mutant.size() > 8 + 21) {
      const uint64_t length = mutant.size() - 8 - 21;
      std::memcpy(mutant.data(), &length, sizeof(length));
    }
    accepted += TryHeader(std::as_bytes(std::span(mutant)));
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kMutants);
}

}  // namespace
}  // namespace baleen::fuzz
