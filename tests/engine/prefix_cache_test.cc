#include "engine/prefix_cache.h"

#include <random>

#include "common/kv_layout.h"
#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

std::vector<int32_t> Tokens(int count, int salt = 0) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = 1000 * salt + i;
  return tokens;
}

std::span<const int32_t> First(const std::vector<int32_t>& tokens, size_t count) {
  return std::span(tokens).first(count);
}

// Prefills `prompt` on paper: takes what is cached, fills up, inserts, lets go. Returns its pages.
std::vector<PageId> Serve(PrefixCache& cache, PagePool& pool, std::span<const int32_t> prompt) {
  std::vector<PageId> pages = cache.Acquire(prompt);
  const auto fresh =
      cache.Allocate(static_cast<int>(PagesFor(prompt.size())) - static_cast<int>(pages.size()));
  EXPECT_TRUE(fresh.ok()) << fresh.status();
  pages.insert(pages.end(), fresh->begin(), fresh->end());
  cache.Insert(prompt, pages);
  pool.DropRequest(pages);
  return pages;
}

int Matched(PrefixCache& cache, PagePool& pool, std::span<const int32_t> prompt) {
  const auto pages = cache.Acquire(prompt);
  pool.DropRequest(pages);
  return static_cast<int>(pages.size());
}

TEST(PrefixCache, FindsFullPagesAndNeverTheWholePrompt) {
  PagePool pool(20);
  PrefixCache cache(pool, /*mtp=*/false);
  const auto tokens = Tokens(400);
  const auto pages = Serve(cache, pool, First(tokens, 200));
  EXPECT_EQ(cache.size(), 3);
  EXPECT_EQ(pool.counts().cached, 3);
  EXPECT_EQ(Matched(cache, pool, First(tokens, 63)), 0);
  EXPECT_EQ(Matched(cache, pool, First(tokens, 64)), 0) << "one row must be left to compute";
  EXPECT_EQ(Matched(cache, pool, First(tokens, 65)), 1);
  EXPECT_EQ(Matched(cache, pool, First(tokens, 192)), 2);
  EXPECT_EQ(Matched(cache, pool, First(tokens, 193)), 3);
  EXPECT_EQ(Matched(cache, pool, First(tokens, 400)), 3);
  EXPECT_EQ(Matched(cache, pool, {}), 0);
  const auto found = cache.Acquire(First(tokens, 400));
  EXPECT_TRUE(std::equal(found.begin(), found.end(), pages.begin()));
  pool.DropRequest(found);
}

TEST(PrefixCache, WithMtpAPageIsFoundOnlyWithItsNextToken) {
  PagePool pool(20);
  PrefixCache cache(pool, /*mtp=*/true);
  auto tokens = Tokens(400);
  Serve(cache, pool, First(tokens, 192));
  EXPECT_EQ(cache.size(), 2) << "what follows the third page is not known";
  EXPECT_EQ(Matched(cache, pool, First(tokens, 400)), 2);
  tokens[128] = -1;
  EXPECT_EQ(Matched(cache, pool, First(tokens, 400)), 1);
  tokens[127] = -1;
  EXPECT_EQ(Matched(cache, pool, First(tokens, 400)), 1);
  tokens[64] = -1;
  EXPECT_EQ(Matched(cache, pool, First(tokens, 400)), 0);
}

TEST(PrefixCache, ForksShareWhatIsCommon) {
  PagePool pool(20);
  PrefixCache cache(pool, false);
  auto a = Tokens(260), b = Tokens(260);
  b[130] = -5;
  const auto pages_a = Serve(cache, pool, a);
  const auto pages_b = Serve(cache, pool, b);
  EXPECT_EQ(pages_a[1], pages_b[1]);
  EXPECT_NE(pages_a[2], pages_b[2]);
  EXPECT_EQ(cache.size(), 6);
  EXPECT_EQ(Matched(cache, pool, a), 4);
  EXPECT_EQ(Matched(cache, pool, b), 4);
}

TEST(PrefixCache, TheSameTokensElsewhereAreAnotherPage) {
  PagePool pool(20);
  PrefixCache cache(pool, false);
  const std::vector<int32_t> same(200, 7);
  Serve(cache, pool, same);
  EXPECT_EQ(cache.size(), 3);
  std::vector<int32_t> later = Tokens(64, 3);
  later.insert(later.end(), same.begin(), same.end());
  EXPECT_EQ(Matched(cache, pool, later), 0);
}

TEST(PrefixCache, TwoAtOnceKeepOneCopy) {
  PagePool pool(20);
  PrefixCache cache(pool, false);
  const auto prompt = Tokens(130);
  const auto first = cache.Allocate(3).value();
  const auto second = cache.Allocate(3).value();
  cache.Insert(prompt, first);
  cache.Insert(prompt, second);
  EXPECT_EQ(cache.size(), 2);
  pool.DropRequest(second);
  EXPECT_EQ(pool.free(), 17);
  pool.DropRequest(first);
  EXPECT_EQ(pool.counts().cached, 2);
}

TEST(PrefixCache, EvictsWhatWasUsedLongestAgoTailFirst) {
  PagePool pool(9);
  PrefixCache cache(pool, false);
  const auto old = Tokens(193, 1), mid = Tokens(193, 2), fresh = Tokens(193, 3);
  Serve(cache, pool, old);                  // 3 cached
  Serve(cache, pool, mid);                  // 6
  EXPECT_EQ(Matched(cache, pool, old), 3);  // now mid is the oldest
  EXPECT_EQ(cache.available(), 9);
  const auto taken = cache.Allocate(5).value();  // 3 free: two of mid go
  EXPECT_EQ(Matched(cache, pool, mid), 1) << "a chain loses its tail, not its head";
  EXPECT_EQ(Matched(cache, pool, old), 3);
  EXPECT_FALSE(cache.Allocate(5).ok());
  EXPECT_EQ(Matched(cache, pool, old), 3) << "what cannot be met evicts nothing";
  pool.DropRequest(taken);
  EXPECT_TRUE(cache.Allocate(9).ok());
  EXPECT_EQ(cache.size(), 0);
}

TEST(PrefixCache, PagesInUseAreNotEvicted) {
  PagePool pool(6);
  PrefixCache cache(pool, false);
  const auto prompt = Tokens(193);
  Serve(cache, pool, prompt);
  const auto used = cache.Acquire(prompt);
  EXPECT_EQ(cache.available(), 3);
  EXPECT_FALSE(cache.Allocate(4).ok());
  EXPECT_TRUE(cache.Allocate(3).ok());
  EXPECT_EQ(cache.size(), 3);
}

TEST(PrefixCache, AvailableHoldsEvenBelowPagesInUse) {
  PagePool pool(7);
  PrefixCache cache(pool, false);
  const auto prompt = Tokens(193);
  const auto twin = cache.Allocate(4).value();  // computed at the same time as the next
  Serve(cache, pool, First(prompt, 129));       // two pages cached
  cache.Insert(prompt, twin);                   // its third page hangs below the other's two
  EXPECT_EQ(cache.available(), 3);
  EXPECT_TRUE(cache.Allocate(3).ok());
  pool.DropRequest(twin);
}

TEST(PrefixCache, FlushForgetsAndKeepsPagesInUse) {
  PagePool pool(6);
  PrefixCache cache(pool, true);
  const auto prompt = Tokens(194);
  Serve(cache, pool, prompt);
  const auto used = cache.Acquire(prompt);
  cache.Flush();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(pool.counts().request, 3);
  pool.DropRequest(used);
  EXPECT_EQ(pool.free(), 6);
}

TEST(PrefixCache, RandomPromptsAlwaysGetPagesOfTheirOwnTokens) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  for (bool mtp : {false, true}) {
    PagePool pool(24);
    std::vector<std::vector<int32_t>> written(24);  // what each page holds, MTP's next token too
    PrefixCache cache(pool, mtp);
    for (int round = 0; round < 3000; ++round) {
      std::vector<int32_t> prompt(1 + rng() % 500);
      for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = i % 50 == 49 ? int(rng() % 2) : 5;
      auto pages = cache.Acquire(prompt);
      ASSERT_LT(pages.size() * kPageTokens, prompt.size());
      for (size_t i = 0; i < pages.size(); ++i) {
        const auto key = std::span(prompt).subspan(i * kPageTokens, kPageTokens + mtp);
        ASSERT_TRUE(std::equal(key.begin(), key.end(), written[pages[i].value].begin()));
      }
      const auto fresh = cache.Allocate(int(PagesFor(prompt.size())) - int(pages.size()));
      ASSERT_TRUE(fresh.ok());
      for (PageId page : *fresh) {
        const size_t begin = pages.size() * kPageTokens;
        const size_t end = std::min(begin + kPageTokens + 1, prompt.size());
        written[page.value].assign(prompt.begin() + begin, prompt.begin() + end);
        written[page.value].resize(kPageTokens + 1, -1);
        pages.push_back(page);
      }
      if (rng() % 4 != 0) cache.Insert(prompt, pages);
      pool.DropRequest(pages);
      ASSERT_EQ(pool.counts().request, 0);
      ASSERT_EQ(pool.counts().cached, cache.size());
    }
  }
}

}  // namespace
}  // namespace baleen::engine
