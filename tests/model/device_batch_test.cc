#include "model/device_batch.h"

#include "gmock/gmock.h"
#include "tests/model/memory_backend.h"

namespace baleen::model {
namespace {

using ::testing::ElementsAre;

constexpr ForwardOptions kOptions = {.max_rows = 4, .max_sequences = 2, .max_context = 256};

template <typename T>
std::vector<T> At(const T* values, size_t count) {
  return {values, values + count};
}

TEST(DeviceBatch, CopiesTheListsAndThePagesInUse) {
  testing::MemoryBackend backend;
  DeviceBatch device(backend, kOptions);
  ASSERT_TRUE(device.allocated());
  const std::vector<int32_t> tokens = {5, 6, 7}, positions = {64, 65, 3}, sequences = {1, 1, 0},
                             hidden = {2, 0, 1}, pages = {10, 11, 12, -1, 20, 21, 22, -1};
  device.Upload({tokens, positions, sequences, pages, 4}, hidden, /*token_limit=*/8);
  EXPECT_EQ(device.rows().map.rows, 3);
  EXPECT_EQ(device.rows().keys, 66);
  EXPECT_THAT(At(device.rows().tokens, 3), ElementsAre(5, 6, 7));
  EXPECT_THAT(At(device.rows().map.positions, 3), ElementsAre(64, 65, 3));
  EXPECT_THAT(At(device.rows().map.sequences, 3), ElementsAre(1, 1, 0));
  EXPECT_THAT(device.rows().host_positions, ElementsAre(64, 65, 3));
  EXPECT_THAT(At(device.hidden_rows(), 3), ElementsAre(2, 0, 1));
  EXPECT_EQ(device.rows().map.page_table_stride, 2);
  EXPECT_THAT(At(device.rows().map.page_table, 4), ElementsAre(10, 11, 20, 21));
}

TEST(DeviceBatch, AnEmptyBatchIsLegal) {
  testing::MemoryBackend backend;
  DeviceBatch device(backend, kOptions);
  device.Upload({}, {}, 8);
  EXPECT_EQ(device.rows().map.rows, 0);
  EXPECT_EQ(device.rows().keys, 0);
}

TEST(DeviceBatchDeathTest, BatchesThatDoNotFitAreBugs) {
  testing::MemoryBackend backend;
  DeviceBatch device(backend, kOptions);
  const std::vector<int32_t> pages = {0, 1, 2, 3};
  const auto upload = [&](int32_t token, int32_t position, int32_t sequence, int stride) {
    const std::vector<int32_t> t = {token}, p = {position}, s = {sequence};
    device.Upload({t, p, s, pages, stride}, {}, 8);
  };
  upload(7, 255, 0, 4);
  EXPECT_DEATH(upload(8, 0, 0, 4), "token");
  EXPECT_DEATH(upload(7, 256, 0, 4), "max_context");
  EXPECT_DEATH(upload(7, 0, 1, 4), "sequences");
  EXPECT_DEATH(upload(7, 128, 0, 2), "page_table_stride");
}

}  // namespace
}  // namespace baleen::model
