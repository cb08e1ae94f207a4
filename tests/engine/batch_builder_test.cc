#include "engine/batch_builder.h"

#include "gmock/gmock.h"

namespace baleen::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BatchBuilder, ListsRowsAndPadsPageTables) {
  BatchBuilder builder;
  builder.AddSequence(std::vector<PageId>{{7}, {3}, {9}});
  builder.AddRow(11, 128);
  builder.AddRow(12, 129);
  builder.AddSequence(std::vector<PageId>{{5}});
  builder.AddRow(13, 0);
  const model::Batch batch = builder.batch();
  EXPECT_EQ(batch.rows(), 3);
  EXPECT_EQ(builder.sequences(), 2);
  EXPECT_THAT(batch.tokens, ElementsAre(11, 12, 13));
  EXPECT_THAT(batch.positions, ElementsAre(128, 129, 0));
  EXPECT_THAT(batch.sequences, ElementsAre(0, 0, 1));
  EXPECT_EQ(batch.page_table_stride, 3);
  EXPECT_THAT(batch.page_table, ElementsAre(7, 3, 9, 5, 0, 0));
}

TEST(BatchBuilder, AnEmptyBatchIsLegal) {
  BatchBuilder builder;
  EXPECT_EQ(builder.batch().rows(), 0);
  EXPECT_THAT(builder.batch().page_table, IsEmpty());
}

TEST(BatchBuilder, ClearStartsAnew) {
  BatchBuilder builder;
  builder.AddSequence(std::vector<PageId>{{1}, {2}});
  builder.AddRow(1, 5);
  builder.Clear();
  builder.AddSequence(std::vector<PageId>{{4}});
  builder.AddRow(9, 63);
  EXPECT_THAT(builder.batch().page_table, ElementsAre(4));
  EXPECT_THAT(builder.batch().positions, ElementsAre(63));
}

TEST(BatchBuilderDeathTest, RefusesGapsAndRowsOutsideThePages) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  BatchBuilder builder;
  EXPECT_DEATH(builder.AddRow(0, 0), "");
  builder.AddSequence(std::vector<PageId>{{1}});
  EXPECT_DEATH(builder.AddRow(0, 64), "outside the pages");
  builder.AddRow(0, 10);
  EXPECT_DEATH(builder.AddRow(0, 12), "");
}

}  // namespace
}  // namespace baleen::engine
