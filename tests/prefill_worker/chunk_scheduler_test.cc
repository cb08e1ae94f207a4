#include "prefill_worker/chunk_scheduler.h"

#include <gtest/gtest.h>

#include <random>

#include "common/kv_layout.h"

namespace baleen::prefill_worker {
namespace {

TEST(ChunkScheduler, OnePromptGetsTheWholeBudgetInPages) {
  const std::vector<ChunkCandidate> one = {{0, 1000}};
  const auto chunks = PlanBatch(one, {.rows = 300});
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].first, 0);
  EXPECT_EQ(chunks[0].rows, 256);
}

TEST(ChunkScheduler, TheEndOfAPromptNeedsNoPageEdge) {
  const std::vector<ChunkCandidate> one = {{960, 1000}};
  const auto chunks = PlanBatch(one, {.rows = 64});
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].first, 960);
  EXPECT_EQ(chunks[0].rows, 40);
}

TEST(ChunkScheduler, AShortPromptSharesTheBatchOfALongOne) {
  const std::vector<ChunkCandidate> two = {{0, 100000}, {0, 100}};
  const auto chunks = PlanBatch(two, {.rows = 1024});
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_GE(chunks[0].rows, 768);
  EXPECT_EQ(chunks[1].rows, 100);
}

TEST(ChunkScheduler, ChunksShrinkAsTheContextGrows) {
  EXPECT_EQ(RowsAtContext(8192, 0), 8192);
  EXPECT_EQ(RowsAtContext(8192, kDoubleContext), 4096);
  const std::vector<ChunkCandidate> deep = {{kDoubleContext, 200000}};
  EXPECT_EQ(PlanBatch(deep, {.rows = 8192})[0].rows, 4096);
}

TEST(ChunkScheduler, MakesProgressAtAnyContextWithTheSmallestChunk) {
  const std::vector<ChunkCandidate> deep = {{128000, 131072}};
  EXPECT_EQ(PlanBatch(deep, {.rows = 64})[0].rows, 64);
}

TEST(ChunkScheduler, KeepsTheSequenceLimit) {
  const std::vector<ChunkCandidate> many(10, {0, 5});
  EXPECT_EQ(PlanBatch(many, {.rows = 8192, .sequences = 3}).size(), 3u);
}

// Every prompt is computed exactly once, without gaps, whatever the mix.
TEST(ChunkScheduler, RandomMixesFinishWithoutGaps) {
  std::mt19937 rng(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<ChunkCandidate> rest(1 + rng() % 20);
    for (auto& c : rest) c.total = 1 + rng() % 3000;
    const ChunkLimits limits{.rows = 64 << (rng() % 6), .sequences = int(1 + rng() % 8)};
    for (int batch = 0; !rest.empty(); ++batch) {
      ASSERT_LT(batch, 100000) << "seed 7 round " << round;
      const auto chunks = PlanBatch(rest, limits);
      ASSERT_FALSE(chunks.empty());
      ASSERT_LE(int(chunks.size()), limits.sequences);
      int rows = 0;
      for (const Chunk& chunk : chunks) {
        ChunkCandidate& c = rest[chunk.candidate];
        ASSERT_EQ(chunk.first, c.computed);
        ASSERT_GT(chunk.rows, 0);
        c.computed += chunk.rows;
        rows += chunk.rows;
        ASSERT_LE(c.computed, c.total);
        ASSERT_TRUE(c.computed == c.total || c.computed % kPageTokens == 0);
      }
      ASSERT_LE(rows, limits.rows);
      std::erase_if(rest, [](const ChunkCandidate& c) { return c.computed == c.total; });
    }
  }
}

}  // namespace
}  // namespace baleen::prefill_worker
