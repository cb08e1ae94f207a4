#include "router/placement/placement.h"

#include "common/check.h"
#include "gmock/gmock.h"
#include "router/directory_fixture.h"
#include "testing/fake_clock.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(Policy, LeastLoadTakesTheCheapestAndTurnsAmongEquals) {
  const std::vector<int64_t> costs = {5, 3, 9, 3};
  EXPECT_EQ(LeastLoad(costs, {.sequence = 0}), 1u);
  EXPECT_EQ(LeastLoad(costs, {.sequence = 3}), 3u);
  const std::vector<int64_t> equal = {0, 0, 0};
  for (uint64_t s = 0; s < 6; ++s) EXPECT_EQ(LeastLoad(equal, {.sequence = s}), s % 3);
}

TEST(Policy, PowerOfTwoNeverTakesTheWorstOfItsTwo) {
  const std::vector<int64_t> costs = {1, 2, 3};
  for (uint64_t low = 0; low < 30; ++low)
    for (uint64_t high = 0; high < 30; ++high)
      EXPECT_NE(PowerOfTwo(costs, {.random = high << 32 | low}), 2u);  // 2 loses every pair
  EXPECT_EQ(PowerOfTwo(std::vector<int64_t>{7}, {.random = 12345}), 0u);
}

TEST(Policy, RoundRobinIgnoresTheCost) {
  const std::vector<int64_t> costs = {100, 0};
  EXPECT_EQ(RoundRobin(costs, {.sequence = 4}), 0u);
  EXPECT_EQ(RoundRobin(costs, {.sequence = 5}), 1u);
}

TEST(Policy, UnknownNamesAreRefused) {
  EXPECT_THAT(ParsePolicy("fastest"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fastest")));
  EXPECT_EQ(*ParsePolicy(""), &LeastLoad);
  EXPECT_EQ(*ParsePolicy("power_of_two"), &PowerOfTwo);
}

class PlacementTest : public ::testing::Test {
 protected:
  std::optional<Placement> PlaceOne(PlacementRequest request = {.prompt_tokens = 100,
                                                                .max_new_tokens = 10}) {
    return Place(*directory_.View(), request, options_, {.sequence = sequence_++});
  }
  baleen::testing::FakeClock clock_;
  WorkerDirectory directory_{{}, {}, clock_};
  PlacementOptions options_;
  uint64_t sequence_ = 0;
};

TEST_F(PlacementTest, NeedsAReadyPair) {
  EXPECT_FALSE(PlaceOne());
  AddReady(directory_, WorkerRole::kDecode, "d0", 1);
  EXPECT_FALSE(PlaceOne());
  const GroupId p = AddReady(directory_, WorkerRole::kPrefill, "p0", 2);
  ASSERT_TRUE(PlaceOne());
  BALEEN_EXPECT_OK(directory_.Update(p, MakeReport(GroupState::kDraining)));
  EXPECT_FALSE(PlaceOne());
}

TEST_F(PlacementTest, RanksAreBalancedByTokens) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId d = AddReady(directory_, WorkerRole::kDecode, "d0", 2, /*members=*/2);
  directory_.Assign(d, 0, 5000);
  directory_.Assign(d, 1, 100);
  directory_.Assign(d, 1, 100);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(PlaceOne()->rank, 1);
}

TEST_F(PlacementTest, AReportedLoadOfOtherRoutersCounts) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId busy = AddReady(directory_, WorkerRole::kDecode, "d0", 2);
  const GroupId idle = AddReady(directory_, WorkerRole::kDecode, "d1", 3);
  BALEEN_EXPECT_OK(directory_.Update(busy, MakeReport(GroupState::kReady, 1, /*used_pages=*/100)));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(PlaceOne()->decode, idle);
}

TEST_F(PlacementTest, APoolTooSmallIsNoCandidate) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  AddReady(directory_, WorkerRole::kDecode, "d0", 2);  // 65536 tokens
  EXPECT_TRUE(PlaceOne({.prompt_tokens = 65000, .max_new_tokens = 536}));
  EXPECT_FALSE(PlaceOne({.prompt_tokens = 65000, .max_new_tokens = 537}));
}

TEST_F(PlacementTest, PrefillPoolsNeedHoldOnlyThePrompt) {
  AddReady(directory_, WorkerRole::kDecode, "d0", 1);  // 65536 tokens
  GroupIdentity identity = MakeIdentity(WorkerRole::kPrefill, "small", 2);
  identity.pool_tokens = 4096;
  const auto small = directory_.Register(identity);
  BALEEN_EXPECT_OK(directory_.Update(*small, MakeReport(GroupState::kReady)));
  EXPECT_EQ(directory_.View()->PrefillRoom(), 4096);
  EXPECT_TRUE(PlaceOne({.prompt_tokens = 4096, .max_new_tokens = 8000}));
  EXPECT_FALSE(PlaceOne({.prompt_tokens = 4097, .max_new_tokens = 1}));
  const GroupId large = AddReady(directory_, WorkerRole::kPrefill, "large", 3);
  directory_.Assign(large, 0, 100000);
  EXPECT_EQ(directory_.View()->PrefillRoom(), 65536);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(PlaceOne({.prompt_tokens = 4097, .max_new_tokens = 1})->prefill, large);
    EXPECT_EQ(PlaceOne({.prompt_tokens = 4096, .max_new_tokens = 1})->prefill, *small);
  }
}

TEST_F(PlacementTest, PrefillKeepsRoomForTheDraftsAfterThePrompt) {
  AddReady(directory_, WorkerRole::kDecode, "d0", 1);
  GroupIdentity identity = MakeIdentity(WorkerRole::kPrefill, "p0", 2);
  identity.pool_tokens = 4096;
  identity.drafts = 3;
  BALEEN_EXPECT_OK(directory_.Register(identity));
  EXPECT_EQ(directory_.View()->PrefillRoom(), 4094);
  identity.incarnation = 3;
  identity.max_context = 4096;  // nothing is drafted beyond the context
  BALEEN_EXPECT_OK(directory_.Register(identity));
  EXPECT_EQ(directory_.View()->PrefillRoom(), 4096);
}

TEST_F(PlacementTest, DraftSlotsTakeRoomToo) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  GroupIdentity identity = MakeIdentity(WorkerRole::kDecode, "d0", 2);
  identity.drafts = 3;
  const auto id = directory_.Register(identity);
  BALEEN_EXPECT_OK(directory_.Update(*id, MakeReport(GroupState::kReady)));
  EXPECT_EQ(directory_.View()->DecodeRoom(), 65533);
  EXPECT_TRUE(PlaceOne({.prompt_tokens = 65000, .max_new_tokens = 533}));
  EXPECT_FALSE(PlaceOne({.prompt_tokens = 65000, .max_new_tokens = 534}));
}

TEST_F(PlacementTest, AFullBacklogGetsNoMore) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId d = AddReady(directory_, WorkerRole::kDecode, "d0", 2);
  auto report = MakeReport(GroupState::kReady);
  report.loads[0].waiting = options_.max_waiting;
  BALEEN_EXPECT_OK(directory_.Update(d, report));
  EXPECT_FALSE(PlaceOne());
}

// Its pages are in quarantine, so that it looks emptier than the busy one.
TEST_F(PlacementTest, ARankThatTakesNothingNewGetsNothing) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId d = AddReady(directory_, WorkerRole::kDecode, "d0", 2, /*members=*/2);
  auto report = MakeReport(GroupState::kReady, /*members=*/2);
  report.loads[0].unready = true;
  report.loads[1].waiting_tokens = 1000;
  BALEEN_EXPECT_OK(directory_.Update(d, report));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(PlaceOne()->rank, 1);
  report.loads[1].unready = true;
  BALEEN_EXPECT_OK(directory_.Update(d, report));
  EXPECT_FALSE(PlaceOne());
}

TEST_F(PlacementTest, ExcludedWorkersAreNotChosenAgain) {
  const GroupId p0 = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId d0 = AddReady(directory_, WorkerRole::kDecode, "d0", 2, /*members=*/2);
  EXPECT_FALSE(PlaceOne({.excluded_prefill = p0}));
  EXPECT_FALSE(PlaceOne({.excluded_decode = d0}));
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(PlaceOne({.excluded_decode = d0, .excluded_rank = 0})->rank, 1);
  const GroupId p1 = AddReady(directory_, WorkerRole::kPrefill, "p1", 5);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(PlaceOne({.excluded_prefill = p0})->prefill, p1);
}

}  // namespace
}  // namespace baleen::router
