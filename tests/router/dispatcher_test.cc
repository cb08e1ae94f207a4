#include "router/dispatcher.h"

#include "gmock/gmock.h"
#include "router/dispatcher_fixture.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DispatcherTest : public DispatcherFixture {};

TEST_F(DispatcherTest, WaitsForAPairAndServesInOrder) {
  ASSERT_THAT(Submit(1), IsOk());
  ASSERT_THAT(Submit(2), IsOk());
  EXPECT_TRUE(clients_.decodes.empty());
  EXPECT_EQ(metrics_.queue_length.Value(), 2);
  EXPECT_THAT(Submit(3), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  AddPair(0);
  ASSERT_EQ(clients_.decodes.size(), 2u);
  EXPECT_EQ(D(0).input.prompt->size(), 1u);
  EXPECT_EQ(D(1).input.prompt->size(), 2u);
  EXPECT_EQ(metrics_.queue_length.Value(), 0);
}

TEST_F(DispatcherTest, AQueuedRequestTimesOutWithUnavailable) {
  ASSERT_THAT(Submit(), IsOk());
  clock_.Advance(std::chrono::milliseconds(29999));
  dispatcher_.Tick();
  EXPECT_TRUE(sink_->quiet());
  clock_.Advance(std::chrono::milliseconds(1));
  dispatcher_.Tick();
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable, _)));
  ExpectQuiet();
}

TEST_F(DispatcherTest, AClientThatLeavesTheQueueMakesRoom) {
  const auto handle = Submit();
  ASSERT_THAT(handle, IsOk());
  (*handle)->Cancel(CancelReason::kClientGone);
  ExpectQuiet();
  AddPair(0);
  EXPECT_TRUE(clients_.decodes.empty());
}

TEST_F(DispatcherTest, ADeadGroupFailsWhatRunsOnIt) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  EmitToken(D(), 1);
  clock_.Advance(std::chrono::seconds(6));
  directory_.Tick();
  EXPECT_THAT(sink_->errors,
              ElementsAre(StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no report"))));
  EXPECT_EQ(D().leg->cancels, 1);
  EXPECT_EQ(dispatcher_.live(), 0);
}

TEST_F(DispatcherTest, FailAllEndsEverything) {
  AddPair(0);
  ASSERT_THAT(Submit(), IsOk());
  dispatcher_.FailAll("the router is shutting down");
  EXPECT_THAT(sink_->errors, ElementsAre(StatusIs(absl::StatusCode::kUnavailable, _)));
  EXPECT_EQ(P().leg->cancels, 1);
  ExpectQuiet();
}

}  // namespace
}  // namespace baleen::router
