#include "engine/page_pool.h"

#include <random>
#include <set>

#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(PagePool, HandsOutEveryPageOnce) {
  PagePool pool(10);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) {
    const auto pages = pool.Allocate(2).value();
    for (PageId page : pages) EXPECT_TRUE(seen.insert(page.value).second);
  }
  EXPECT_EQ(seen.size(), 10);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 9);
  EXPECT_EQ(pool.free(), 0);
}

TEST(PagePool, ReturnsResourceExhaustedAndTakesNothing) {
  PagePool pool(3);
  const auto pages = pool.Allocate(2);
  EXPECT_THAT(pool.Allocate(2),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 pages wanted, 1 of 3")));
  EXPECT_EQ(pool.free(), 1);
  EXPECT_TRUE(pool.Allocate(0).value().empty());
  EXPECT_TRUE(pool.Allocate(1).ok());
}

TEST(PagePool, APageWithAWriterIsNotReusable) {
  PagePool pool(1);
  const auto pages = pool.Allocate(1).value();
  pool.AddWriter(pages);
  pool.AddWriter(pages);
  pool.DropRequest(pages);
  EXPECT_EQ(pool.counts().quarantined, 1);
  EXPECT_FALSE(pool.Allocate(1).ok());
  pool.DropWriter(pages);
  EXPECT_FALSE(pool.Allocate(1).ok());
  pool.DropWriter(pages);
  EXPECT_EQ(pool.counts().quarantined, 0);
  EXPECT_TRUE(pool.Allocate(1).ok());
}

TEST(PagePool, APageWithARequestIsNotReusableAfterItsWriterLeft) {
  PagePool pool(1);
  const auto pages = pool.Allocate(1).value();
  pool.AddWriter(pages);
  pool.DropWriter(pages);
  EXPECT_EQ(pool.counts().request, 1);
  EXPECT_FALSE(pool.Allocate(1).ok());
  pool.DropRequest(pages);
  EXPECT_EQ(pool.free(), 1);
}

TEST(PagePool, CachedPagesCountApart) {
  PagePool pool(2);
  const auto pages = pool.Allocate(1).value();
  pool.AddCache(pages[0]);
  EXPECT_FALSE(pool.OnlyCached(pages[0]));
  pool.DropRequest(pages);
  EXPECT_TRUE(pool.OnlyCached(pages[0]));
  EXPECT_EQ(pool.counts().cached, 1);
  EXPECT_EQ(pool.free(), 1);
  pool.AddRequest(pages);
  EXPECT_EQ(pool.counts().cached, 0);
  EXPECT_EQ(pool.counts().request, 1);
  pool.DropRequest(pages);
  pool.DropCache(pages[0]);
  EXPECT_EQ(pool.free(), 2);
}

using PagePoolDeathTest = ::testing::Test;
TEST(PagePoolDeathTest, ReturningTwiceEndsTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  PagePool pool(2);
  const auto pages = pool.Allocate(1).value();
  pool.DropRequest(pages);
  EXPECT_DEATH(pool.DropRequest(pages), "returned twice");
  EXPECT_DEATH(pool.DropWriter(pages), "returned twice");
  EXPECT_DEATH(pool.AddWriter(pages), "free page");
  EXPECT_DEATH(pool.AddRequest(std::vector<PageId>{{7}}), "no such page");
}

TEST(PagePool, CountsAlwaysAddUpInARandomWalk) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  PagePool pool(20);
  struct Held {
    std::vector<PageId> pages;
    int kind;
  };
  std::vector<Held> held;
  for (int step = 0; step < 20000; ++step) {
    const int action = rng() % 3;
    if (action == 0) {
      if (auto pages = pool.Allocate(rng() % 4); pages.ok()) held.push_back({*pages, 0});
    } else if (action == 1 && !held.empty()) {
      const Held& from = held[rng() % held.size()];
      Held more{from.pages, int(rng() % 3)};
      if (more.kind == 0) pool.AddRequest(more.pages);
      if (more.kind == 1) pool.AddWriter(more.pages);
      if (more.kind == 2)
        for (PageId page : more.pages) pool.AddCache(page);
      held.push_back(more);
    } else if (!held.empty()) {
      std::swap(held[rng() % held.size()], held.back());
      const Held& last = held.back();
      if (last.kind == 0) pool.DropRequest(last.pages);
      if (last.kind == 1) pool.DropWriter(last.pages);
      if (last.kind == 2)
        for (PageId page : last.pages) pool.DropCache(page);
      held.pop_back();
    }
    std::set<int32_t> in_use;
    for (const Held& h : held)
      for (PageId page : h.pages) in_use.insert(page.value);
    const PagePool::Counts c = pool.counts();
    ASSERT_EQ(c.free, 20 - static_cast<int>(in_use.size()));
    ASSERT_EQ(c.free + c.request + c.quarantined + c.cached, c.total);
  }
}

}  // namespace
}  // namespace baleen::engine
