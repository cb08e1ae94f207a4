#include "router/placement/placement_round.h"

#include "gmock/gmock.h"
#include "router/directory_fixture.h"
#include "testing/fake_clock.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

constexpr PlacementRequest kLong = {.prompt_tokens = 60000, .max_new_tokens = 1};
constexpr PlacementRequest kShort = {.prompt_tokens = 100, .max_new_tokens = 1};

// Prefill and decode groups for long requests, and such for short ones only.
class PlacementRoundTest : public ::testing::Test {
 protected:
  PlacementRoundTest() {
    large_prefill_ = Add(WorkerRole::kPrefill, "large", 65536);
    large_decode_ = Add(WorkerRole::kDecode, "large", 65536);
  }
  GroupId Add(WorkerRole role, const std::string& name, int64_t pool_tokens) {
    GroupIdentity identity = MakeIdentity(role, name, ++incarnation_);
    identity.pool_tokens = pool_tokens;
    const auto id = directory_.Register(identity);
    Report(*id, GroupState::kReady);
    return *id;
  }
  void Report(GroupId group, GroupState state, int waiting = 0) {
    auto report = MakeReport(state);
    report.loads[0].waiting = waiting;
    BALEEN_EXPECT_OK(directory_.Update(group, report));
  }
  void Fill(GroupId group) { Report(group, GroupState::kReady, options_.max_waiting); }
  PlacementRound Round() { return PlacementRound(*directory_.View(), options_); }

  baleen::testing::FakeClock clock_;
  WorkerDirectory directory_{{}, {}, clock_};
  PlacementOptions options_;
  uint64_t incarnation_ = 0;
  GroupId large_prefill_, large_decode_;
};

TEST_F(PlacementRoundTest, LaterRequestsPassOneThatFindsNoPair) {
  const GroupId small = Add(WorkerRole::kDecode, "small", 1024);
  Fill(large_decode_);
  PlacementRound round = Round();
  EXPECT_FALSE(round.Next(kLong, /*keep=*/false, {}));
  const auto placement = round.Next(kShort, /*keep=*/false, {});
  ASSERT_TRUE(placement);
  EXPECT_EQ(placement->decode, small);
  EXPECT_EQ(placement->prefill, large_prefill_);
}

TEST_F(PlacementRoundTest, WhoKeepsClosesOnlyTheGroupsItCouldUse) {
  Add(WorkerRole::kDecode, "small", 1024);
  Fill(large_decode_);
  PlacementRound round = Round();
  EXPECT_FALSE(round.Next(kLong, /*keep=*/true, {}));
  EXPECT_FALSE(round.Next(kShort, /*keep=*/false, {}));  // prefill is kept
  const GroupId small = Add(WorkerRole::kPrefill, "small", 1024);
  PlacementRound next = Round();
  EXPECT_FALSE(next.Next(kLong, /*keep=*/true, {}));
  const auto placement = next.Next(kShort, /*keep=*/false, {});
  ASSERT_TRUE(placement);
  EXPECT_EQ(placement->prefill, small);
}

TEST_F(PlacementRoundTest, WhoWaitsForAGroupThatIsNotThereKeepsNothing) {
  Add(WorkerRole::kDecode, "small", 1024);
  Report(large_decode_, GroupState::kDraining);
  PlacementRound round = Round();
  EXPECT_FALSE(round.Next(kLong, /*keep=*/true, {}));
  EXPECT_TRUE(round.Next(kShort, /*keep=*/false, {}));
}

TEST_F(PlacementRoundTest, ALargerRequestThanOneThatWaitsIsHopeless) {
  Fill(large_decode_);
  PlacementRound round = Round();
  EXPECT_FALSE(round.Hopeless(kLong));
  EXPECT_FALSE(round.Next(kShort, /*keep=*/false, {}));
  EXPECT_TRUE(round.Hopeless(kLong));
  EXPECT_TRUE(round.Hopeless(kShort));
  EXPECT_FALSE(round.Hopeless({.prompt_tokens = 99, .max_new_tokens = 5000}));
  EXPECT_FALSE(round.Hopeless({.prompt_tokens = 100, .max_new_tokens = 0}));
}

TEST_F(PlacementRoundTest, WhatItPlacedCountsForTheNext) {
  const GroupId other = Add(WorkerRole::kDecode, "other", 65536);
  directory_.Assign(large_decode_, 0, 200);
  PlacementRound round = Round();
  EXPECT_EQ(round.Next(kShort, /*keep=*/false, {})->decode, other);
  EXPECT_EQ(round.Next(kShort, /*keep=*/false, {})->decode, other);
  EXPECT_EQ(round.Next(kShort, /*keep=*/false, {})->decode, large_decode_);
}

}  // namespace
}  // namespace baleen::router
