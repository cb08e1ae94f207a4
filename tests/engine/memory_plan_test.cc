#include "engine/memory_plan.h"

#include "tests/testing/status_matchers.h"

namespace baleen::engine {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::Eq;

TEST(PlanPages, FillsWhatIsAvailable) {
  EXPECT_EQ(
      PlanPages({.page_bytes = 1000, .bytes_available = 500'999, .max_context = 1024}).value(),
      500);
}

TEST(PlanPages, TakesNoMoreThanIsUseful) {
  EXPECT_EQ(PlanPages({.page_bytes = 1, .bytes_available = 1 << 20, .max_context = 1000}).value(),
            16 * 64);
}

TEST(PlanPages, TakesTheConfiguredCount) {
  EXPECT_EQ(
      PlanPages(
          {.requested_pages = 3, .page_bytes = 10, .bytes_available = 30, .max_context = 9999})
          .value(),
      3);
}

TEST(PlanPages, NamesBytesWantedAndAvailable) {
  EXPECT_THAT(PlanPages({.page_bytes = 1000, .bytes_available = 15'999, .max_context = 1000}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       Eq("page pool: 16 pages, for one sequence of max_context 1000, need 16000 "
                          "bytes, 15999 are available")));
  EXPECT_THAT(
      PlanPages({.requested_pages = 16, .page_bytes = 1000, .bytes_available = 15'999}),
      StatusIs(absl::StatusCode::kResourceExhausted,
               Eq("page pool: 16 pages, as configured, need 16000 bytes, 15999 are available")));
}

TEST(MemoryBudget, IsDescribedInBytes) {
  EXPECT_EQ(Describe({.device = {.total = 100, .free = 80},
                      .fraction = 0.5,
                      .weights = 20,
                      .forward = 10,
                      .step = 5}),
            "100 bytes, 80 free; weights 20, forward pass 10, steps 5, memory_fraction 0.5");
}

TEST(DecodePages, HoldPromptAnswerAndProvisionalRows) {
  EXPECT_EQ(DecodePages(60, 4, 0, 1000), 1);
  EXPECT_EQ(DecodePages(60, 4, 1, 1000), 2);
  EXPECT_EQ(DecodePages(100, 100000, 3, 1000), 16);
  EXPECT_EQ(DecodePages(1, int64_t{1} << 31, 3, 1 << 30), 1 << 24);
}

TEST(PrefillPages, HoldPromptAndDraftRows) {
  EXPECT_EQ(PrefillPages(64, 0, 1000), 1);
  EXPECT_EQ(PrefillPages(64, 1, 1000), 1);
  EXPECT_EQ(PrefillPages(64, 2, 1000), 2);
  EXPECT_EQ(PrefillPages(63, 2, 1000), 1);
  EXPECT_EQ(PrefillPages(63, 3, 64), 1);
}

constexpr size_t kGiB = size_t{1} << 30;

TEST(PoolBytes, IsTheShareWithoutWeightsAndForward) {
  EXPECT_EQ(PoolBytes({.device = {.total = 100 * kGiB, .free = 80 * kGiB},
                       .fraction = 0.5,
                       .weights = 20 * kGiB,
                       .forward = 10 * kGiB}),
            20 * kGiB);
}

TEST(PoolBytes, IsNoMoreThanOthersLeave) {
  EXPECT_EQ(PoolBytes({.device = {.total = 100 * kGiB, .free = 12 * kGiB},
                       .fraction = 0.9,
                       .weights = kGiB,
                       .forward = 10 * kGiB}),
            2 * kGiB);
}

TEST(PoolBytes, IsNothingWhenTheRestTakesAll) {
  const kernels::Backend::Memory device = {.total = 8 * kGiB, .free = kGiB};
  EXPECT_EQ(PoolBytes({.device = device, .fraction = 0.5, .weights = 5 * kGiB}), 0u);
  EXPECT_EQ(PoolBytes({.device = device, .fraction = 0.9, .forward = 2 * kGiB}), 0u);
}

TEST(PoolBytes, OfASmallShareIsEnoughForASmallModel) {
  EXPECT_EQ(PoolBytes({.device = {.total = kGiB, .free = kGiB}, .fraction = 1.0 / 16}),
            kLeastBudget);
}

}  // namespace
}  // namespace baleen::engine
