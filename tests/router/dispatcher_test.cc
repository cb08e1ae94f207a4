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

// A pair 0 that is full, for longer prompts than the pairs 1 and up take.
class QueueOrderTest : public DispatcherFixture {
 protected:
  QueueOrderTest() {
    AddPair(0);
    SetWaiting(decode_[0], 256);
  }
  void SetWaiting(GroupId group, int waiting) {
    auto report = MakeReport(GroupState::kReady);
    report.loads[0].waiting = waiting;
    BALEEN_EXPECT_OK(directory_.Update(group, report));
  }
  GroupId AddSmallDecode(const std::string& name) {
    GroupIdentity identity = MakeIdentity(WorkerRole::kDecode, name, 100);
    identity.pool_tokens = 64;
    const auto id = directory_.Register(identity);
    BALEEN_EXPECT_OK(directory_.Update(*id, MakeReport(GroupState::kReady)));
    return *id;
  }
  // The prompts that workers have got, by their length.
  std::vector<size_t> Placed() const {
    std::vector<size_t> lengths;
    for (const auto& call : clients_.decodes) lengths.push_back(call.input.prompt->size());
    return lengths;
  }
};

TEST_F(QueueOrderTest, ARequestThatAnotherPairTakesPassesTheHead) {
  const GroupId small = AddSmallDecode("small");
  ASSERT_THAT(Submit(1000), IsOk());
  ASSERT_THAT(Submit(10), IsOk());
  EXPECT_THAT(Placed(), ElementsAre(10));
  SetWaiting(small, 256);
  ASSERT_THAT(Submit(20), IsOk());
  EXPECT_THAT(Submit(30), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  SetWaiting(small, 0);  // the queue moves on behind its head
  EXPECT_THAT(Placed(), ElementsAre(10, 20));
  SetWaiting(decode_[0], 0);
  EXPECT_THAT(Placed(), ElementsAre(10, 20, 1000));
  EXPECT_EQ(metrics_.queue_length.Value(), 0);
}

TEST_F(QueueOrderTest, AFullQueueRefusesOnlyWhoWouldWait) {
  AddSmallDecode("small");
  ASSERT_THAT(Submit(1000), IsOk());
  ASSERT_THAT(Submit(1001), IsOk());
  EXPECT_THAT(Submit(1002), StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_EQ(dispatcher_.live(), 2);
  EXPECT_TRUE(sink_->quiet());
  EXPECT_THAT(Submit(10), IsOk());
  EXPECT_THAT(Placed(), ElementsAre(10));
}

TEST_F(QueueOrderTest, CompetitorsForOnePairGoInOrder) {
  ASSERT_THAT(Submit(1000), IsOk());
  ASSERT_THAT(Submit(10), IsOk());
  SetWaiting(decode_[0], 0);
  EXPECT_THAT(Placed(), ElementsAre(1000, 10));
}

TEST_F(QueueOrderTest, AfterHalfItsTimeTheHeadKeepsItsGroups) {
  AddSmallDecode("small");
  ASSERT_THAT(Submit(1000), IsOk());
  clock_.Advance(std::chrono::seconds(15));
  ASSERT_THAT(Submit(10), IsOk());  // would use the only prefill group, which the head needs too
  EXPECT_THAT(Placed(), ElementsAre());
  SetWaiting(decode_[0], 0);
  EXPECT_THAT(Placed(), ElementsAre(1000, 10));
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
