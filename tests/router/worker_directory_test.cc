#include "router/worker_directory.h"

#include "gmock/gmock.h"
#include "router/directory_fixture.h"
#include "testing/fake_clock.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::FakeClock;
using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class RecordingListener final : public DirectoryListener {
 public:
  void OnClusterChanged() override { ++changes; }
  void OnGroupDead(GroupId group, absl::string_view) override { dead.push_back(group); }
  int changes = 0;
  std::vector<GroupId> dead;
};

class WorkerDirectoryTest : public ::testing::Test {
 protected:
  WorkerDirectoryTest() { directory_.SetListener(&listener_); }
  FakeClock clock_;
  RecordingListener listener_;
  WorkerDirectory directory_{{}, {{"model", "m1"}, {"tokenizer", "t1"}}, clock_};
};

TEST_F(WorkerDirectoryTest, AGroupIsReadyOnceItSaysSo) {
  const auto id = directory_.Register(MakeIdentity(WorkerRole::kPrefill, "p0", 1));
  ASSERT_THAT(id, IsOk());
  EXPECT_EQ(directory_.View()->prefill.at(0).state, GroupState::kStarting);
  BALEEN_EXPECT_OK(directory_.Update(*id, MakeReport(GroupState::kReady)));
  EXPECT_EQ(directory_.View()->prefill.at(0).state, GroupState::kReady);
  EXPECT_FALSE(directory_.View()->HasReadyPair());
  AddReady(directory_, WorkerRole::kDecode, "d0", 5);
  EXPECT_TRUE(directory_.View()->HasReadyPair());
  EXPECT_GT(listener_.changes, 0);
}

TEST_F(WorkerDirectoryTest, AViewNeverChanges) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const auto before = directory_.View();
  AddReady(directory_, WorkerRole::kPrefill, "p1", 2);
  EXPECT_EQ(before->prefill.size(), 1u);
  EXPECT_EQ(directory_.View()->prefill.size(), 2u);
}

TEST_F(WorkerDirectoryTest, AnotherTokenizerThanTheRoutersIsRefusedByName) {
  GroupIdentity identity = MakeIdentity(WorkerRole::kPrefill, "p0", 1);
  identity.fingerprint[1].second = "t2";
  EXPECT_THAT(directory_.Register(identity),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("tokenizer: t1")));
  EXPECT_TRUE(directory_.View()->prefill.empty());
}

TEST_F(WorkerDirectoryTest, AnotherPageSizeThanTheOtherGroupsIsRefusedByName) {
  AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  GroupIdentity identity = MakeIdentity(WorkerRole::kDecode, "d0", 2);
  identity.fingerprint[2].second = "32";
  EXPECT_THAT(directory_.Register(identity),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("page_tokens: 64")));
  identity.fingerprint.pop_back();
  EXPECT_THAT(directory_.Register(identity),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("page_tokens")));
}

TEST_F(WorkerDirectoryTest, UnusableRegistrationsAreRefused) {
  GroupIdentity identity = MakeIdentity(WorkerRole::kDecode, "d0", 2, /*members=*/2);
  identity.members[1].grpc_address.clear();
  EXPECT_THAT(directory_.Register(identity),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("grpc_address")));
  EXPECT_THAT(directory_.Register(MakeIdentity(WorkerRole::kDecode, "", 2)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name")));
  EXPECT_THAT(directory_.Register(MakeIdentity(WorkerRole::kDecode, "d0", 0)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("incarnation")));
}

TEST_F(WorkerDirectoryTest, ASilentGroupIsSuspectThenRecovers) {
  const GroupId id = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  clock_.Advance(milliseconds(999));
  directory_.Tick();
  EXPECT_EQ(directory_.View()->prefill.at(0).state, GroupState::kReady);
  clock_.Advance(milliseconds(1));
  directory_.Tick();
  EXPECT_EQ(directory_.View()->prefill.at(0).state, GroupState::kSuspect);
  BALEEN_EXPECT_OK(directory_.Update(id, MakeReport(GroupState::kReady)));
  EXPECT_EQ(directory_.View()->prefill.at(0).state, GroupState::kReady);
  EXPECT_TRUE(listener_.dead.empty());
}

TEST_F(WorkerDirectoryTest, AGroupSilentForTheLeaseIsDead) {
  const GroupId id = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  clock_.Advance(std::chrono::seconds(6));
  directory_.Tick();
  EXPECT_TRUE(directory_.View()->prefill.empty());
  EXPECT_EQ(listener_.dead, std::vector<GroupId>{id});
  EXPECT_THAT(directory_.Update(id, MakeReport(GroupState::kReady)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("current")));
}

TEST_F(WorkerDirectoryTest, ABrokenStreamRemovesAtOnceButFailsNothing) {
  const GroupId id = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  directory_.Disconnect(id, "stream broke");
  EXPECT_TRUE(directory_.View()->prefill.empty());
  EXPECT_TRUE(listener_.dead.empty());
  EXPECT_THAT(directory_.Update(id, MakeReport(GroupState::kReady)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("current")));
}

TEST_F(WorkerDirectoryTest, AGroupThatStaysGoneIsDeadAfterTheLease) {
  const GroupId id = AddReady(directory_, WorkerRole::kDecode, "d0", 1, /*members=*/2);
  clock_.Advance(milliseconds(500));
  directory_.Disconnect(id, "stream broke");
  clock_.Advance(milliseconds(5999));
  directory_.Tick();
  EXPECT_TRUE(listener_.dead.empty());
  EXPECT_TRUE(directory_.View()->decode.empty());
  clock_.Advance(milliseconds(1));
  directory_.Tick();
  EXPECT_EQ(listener_.dead, std::vector<GroupId>{id});
  directory_.Tick();
  EXPECT_EQ(listener_.dead.size(), 1u);
}

TEST_F(WorkerDirectoryTest, AGroupThatDialsAgainInTimeKeepsItsIdAndItsWork) {
  const GroupId id = AddReady(directory_, WorkerRole::kDecode, "d0", 1);
  directory_.Assign(id, 0, 100);
  directory_.Disconnect(id, "stream broke");
  clock_.Advance(std::chrono::seconds(5));
  EXPECT_EQ(AddReady(directory_, WorkerRole::kDecode, "d0", 1), id);
  clock_.Advance(std::chrono::seconds(5));
  directory_.Tick();
  EXPECT_TRUE(listener_.dead.empty());
  ASSERT_EQ(directory_.View()->decode.size(), 1u);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].tokens, 100);
}

TEST_F(WorkerDirectoryTest, ANewIncarnationOfAGoneGroupIsItsDeath) {
  const GroupId id = AddReady(directory_, WorkerRole::kDecode, "d0", 1);
  directory_.Disconnect(id, "stream broke");
  AddReady(directory_, WorkerRole::kDecode, "d0", 2);
  EXPECT_EQ(listener_.dead, std::vector<GroupId>{id});
}

TEST_F(WorkerDirectoryTest, ANewIncarnationReplacesTheOld) {
  const GroupId old = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  const GroupId fresh = AddReady(directory_, WorkerRole::kPrefill, "p0", 2);
  ASSERT_EQ(directory_.View()->prefill.size(), 1u);
  EXPECT_EQ(directory_.View()->prefill[0].id, fresh);
  EXPECT_EQ(listener_.dead, std::vector<GroupId>{old});
  directory_.Disconnect(old, "late");  // must not touch the new one
  EXPECT_EQ(directory_.View()->prefill.size(), 1u);
}

TEST_F(WorkerDirectoryTest, TheSameIncarnationDialingAgainIsNotADeath) {
  const GroupId id = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  EXPECT_EQ(AddReady(directory_, WorkerRole::kPrefill, "p0", 1), id);
  EXPECT_EQ(directory_.View()->prefill.size(), 1u);
  directory_.Disconnect(id, "the former stream broke late");  // must not touch the new one
  EXPECT_EQ(directory_.View()->prefill.size(), 1u);
  EXPECT_TRUE(listener_.dead.empty());
  directory_.Disconnect(id, "and the new one");
  EXPECT_TRUE(directory_.View()->prefill.empty());
  EXPECT_THAT(directory_.Register(MakeIdentity(WorkerRole::kPrefill, "p0", 1, /*members=*/2)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("members")));
}

TEST_F(WorkerDirectoryTest, AWholeNewClusterMayDifferFromTheOldOne) {
  const GroupId id = AddReady(directory_, WorkerRole::kPrefill, "p0", 1);
  directory_.Disconnect(id, "gone");
  GroupIdentity identity = MakeIdentity(WorkerRole::kPrefill, "p0", 2);
  identity.fingerprint[2].second = "32";
  EXPECT_THAT(directory_.Register(identity), IsOk());
}

TEST_F(WorkerDirectoryTest, AssignedWorkIsCountedAndGivenBack) {
  const GroupId id = AddReady(directory_, WorkerRole::kDecode, "d0", 1, /*members=*/2);
  directory_.Assign(id, 1, 100);
  directory_.Assign(id, 1, 20);
  directory_.Unassign(id, 1, 100);
  EXPECT_EQ(directory_.View()->decode[0].assigned[1].tokens, 20);
  EXPECT_EQ(directory_.View()->decode[0].assigned[1].requests, 1);
  EXPECT_EQ(directory_.View()->decode[0].assigned[0].requests, 0);
  directory_.Unassign(GroupId{999}, 0, 5);  // gone: ignored
}

TEST_F(WorkerDirectoryTest, TheClustersLimitsAreTheSmallestContextAndTheLargestPool) {
  EXPECT_EQ(directory_.View()->MaxContext(20000), 20000);
  GroupIdentity identity = MakeIdentity(WorkerRole::kDecode, "d0", 1);
  identity.max_context = 4096;
  identity.pool_tokens = 1000;
  ASSERT_THAT(directory_.Register(identity), IsOk());
  EXPECT_EQ(directory_.View()->MaxContext(20000), 4096);
  EXPECT_EQ(directory_.View()->DecodeRoom(), 1000);
}

}  // namespace
}  // namespace baleen::router
