#include "model/indexer.h"

#include "gtest/gtest.h"

namespace baleen::model {
namespace {

TEST(ScoreGroup, TakesTheRowsWhoseScoresFit) {
  const std::vector<int32_t> positions = {9, 10, 11, 12, 99, 3};
  int64_t stride = 0;
  EXPECT_EQ(ScoreGroup(positions, 0, /*score_count=*/48, &stride), 4 - 1);
  EXPECT_EQ(stride, 12);
  EXPECT_EQ(ScoreGroup(positions, 0, 1000, &stride), 6);
  EXPECT_EQ(stride, 100);
  EXPECT_EQ(ScoreGroup(positions, 5, 1000, &stride), 1);
  EXPECT_EQ(stride, 4);
}

TEST(ScoreGroup, TakesAtLeastOneRow) {
  const std::vector<int32_t> positions = {99, 0};
  int64_t stride = 0;
  EXPECT_EQ(ScoreGroup(positions, 0, 100, &stride), 1);
  EXPECT_EQ(stride, 100);
}

TEST(ScoreGroup, GroupsCoverEveryRowOnce) {
  std::vector<int32_t> positions;
  for (int i = 0; i < 500; ++i) positions.push_back((i * 37) % 200);
  int64_t stride = 0;
  size_t first = 0;
  while (first < positions.size()) {
    const int rows = ScoreGroup(positions, static_cast<int>(first), 1000, &stride);
    ASSERT_GT(rows, 0);
    EXPECT_LE(rows * stride, 1000);
    for (int r = 0; r < rows; ++r) EXPECT_LT(positions[first + r], stride);
    first += rows;
  }
  EXPECT_EQ(first, positions.size());
}

}  // namespace
}  // namespace baleen::model
