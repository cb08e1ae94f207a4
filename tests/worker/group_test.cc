#include "worker/group.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "testing/event_log.h"

namespace baleen::worker {
namespace {

using baleen::testing::EventLog;

GroupCallbacks Recording(EventLog& log, int running = 0) {
  return {.formed =
              [&log](std::vector<MemberInfo> members, Incarnation group) {
                std::vector<int> indices;
                for (const MemberInfo& m : members) indices.push_back(m.index);
                log.Add(absl::StrCat("formed ", absl::StrJoin(indices, ","), " ", group.value));
              },
          .broken = [&log](absl::Status why) { log.Add(std::string(why.message())); },
          .drain = [&log] { log.Add("drain"); },
          .undrain = [&log] { log.Add("undrain"); },
          .stop = [&log] { log.Add("stop"); },
          .load = [running] { return Load{.running = running}; }};
}

// A leader behind a real gRPC server on a port of the system's choice.
class GroupTest : public ::testing::Test {
 protected:
  void StartLeader(int size, int lease_ms = 6000) {
    leader_ = GroupLeader::Create(Options(0, size, lease_ms), Recording(leader_log_, 100));
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(leader_->service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    leader_->Start();
  }
  GroupOptions Options(int index, int size, int lease_ms = 6000) {
    return {.size = size,
            .self = {.index = index, .incarnation = {uint64_t(1000 + index)}},
            .fingerprint = {{"numerics", "exact"}, {"layers", "4"}},
            .leader = absl::StrCat("127.0.0.1:", port_),
            .lease_ms = lease_ms};
  }
  void TearDown() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
  }

  int port_ = 0;
  EventLog leader_log_, member_log_;
  std::unique_ptr<GroupLeader> leader_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(GroupTest, OfOneFormsAtOnce) {
  StartLeader(1);
  EXPECT_TRUE(leader_log_.WaitFor("formed 0 1000"));
}

TEST_F(GroupTest, FormsOnceAllMembersJoined) {
  StartLeader(3);
  auto one = JoinGroup(Options(1, 3), Recording(member_log_));
  EventLog other_log;
  auto two = JoinGroup(Options(2, 3), Recording(other_log));
  EXPECT_TRUE(leader_log_.WaitFor("formed 0,1,2 1000"));
  EXPECT_TRUE(member_log_.WaitFor("formed 0,1,2 1000"));
  EXPECT_TRUE(other_log.WaitFor("formed 0,1,2 1000"));
  leader_->Stop();
  EXPECT_TRUE(member_log_.WaitFor("stop"));
}

TEST_F(GroupTest, AMemberMayJoinLongAfterTheOthers) {
  constexpr int kLeaseMs = 1000;
  StartLeader(3, kLeaseMs);
  auto one = JoinGroup(Options(1, 3, kLeaseMs), Recording(member_log_));
  EventLog other_log;
  EXPECT_FALSE(leader_log_.WaitFor("group member 1 silent for 1000 ms", 1,
                                   std::chrono::milliseconds(2 * kLeaseMs)));
  auto two = JoinGroup(Options(2, 3, kLeaseMs), Recording(other_log));
  EXPECT_TRUE(member_log_.WaitFor("formed 0,1,2 1000"));
  EXPECT_FALSE(leader_log_.WaitFor("group member 1 silent for 1000 ms", 1,
                                   std::chrono::milliseconds(kLeaseMs / 2)));
  leader_->Stop();
  EXPECT_TRUE(member_log_.WaitFor("stop"));
}

TEST_F(GroupTest, AStopIsHeardBeforeTheServerGoesAndIsNoFailure) {
  StartLeader(2);
  auto one = JoinGroup(Options(1, 2), Recording(member_log_));
  ASSERT_TRUE(leader_log_.WaitFor("formed 0,1 1000"));
  leader_->Stop();
  const auto start = std::chrono::steady_clock::now();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(20));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10))
      << "the member ends its stream";
  EXPECT_EQ(member_log_.events().back(), "stop");
  EXPECT_EQ(leader_log_.events().size(), 1u);
}

TEST_F(GroupTest, LoadsOfAllMembersReachTheLeader) {
  StartLeader(2);
  auto one = JoinGroup(Options(1, 2), Recording(member_log_, 7));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (leader_->Loads()[1].running != 7 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  EXPECT_EQ(leader_->Loads()[1].running, 7);
  EXPECT_EQ(leader_->Loads()[0].running, 100);
  leader_->Stop();
  EXPECT_TRUE(member_log_.WaitFor("stop"));
}

TEST_F(GroupTest, AVanishedMemberBreaksTheGroup) {
  StartLeader(2);
  auto one = JoinGroup(Options(1, 2), Recording(member_log_));
  ASSERT_TRUE(leader_log_.WaitFor("formed 0,1 1000"));
  one.reset();
  EXPECT_TRUE(leader_log_.WaitFor("group member 1 vanished"));
}

TEST_F(GroupTest, AVanishedLeaderBreaksTheGroup) {
  StartLeader(2);
  auto one = JoinGroup(Options(1, 2), Recording(member_log_));
  ASSERT_TRUE(member_log_.WaitFor("formed 0,1 1000"));
  server_->Shutdown(std::chrono::system_clock::now());
  EXPECT_TRUE(member_log_.WaitFor(absl::StrCat("group leader 127.0.0.1:", port_, " vanished")));
}

TEST_F(GroupTest, AnotherFingerprintIsRefusedWithTheFieldsName) {
  StartLeader(2);
  GroupOptions other = Options(1, 2);
  other.fingerprint[1].second = "61";
  auto one = JoinGroup(other, Recording(member_log_));
  EXPECT_TRUE(member_log_.WaitFor(absl::StrCat(
      "leader 127.0.0.1:", port_, " refused: member 1 differs: layers: 4 here, 61 there")));
}

TEST_F(GroupTest, AnIndexOutOfRangeIsRefused) {
  StartLeader(2);
  auto one = JoinGroup(Options(5, 2), Recording(member_log_));
  EXPECT_TRUE(member_log_.WaitFor(
      absl::StrCat("leader 127.0.0.1:", port_, " refused: worker.index: 5 in a group of 2")));
}

TEST_F(GroupTest, DrainReachesEveryoneFromBothEnds) {
  StartLeader(2);
  auto one = JoinGroup(Options(1, 2), Recording(member_log_));
  ASSERT_TRUE(member_log_.WaitFor("formed 0,1 1000"));
  one->Drain();
  EXPECT_TRUE(leader_log_.WaitFor("drain"));
  leader_->Drain();
  EXPECT_TRUE(member_log_.WaitFor("drain"));
  leader_->Stop();
  EXPECT_TRUE(member_log_.WaitFor("stop"));
}

}  // namespace
}  // namespace baleen::worker
