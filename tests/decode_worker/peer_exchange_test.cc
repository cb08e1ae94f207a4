#include "decode_worker/peer_exchange.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "decode_worker/loopback_ranks.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using ::baleen::testing::LoopbackRanks;
using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

// Remembers what it was told.
class FakeWindow final : public kernels::ExpertWindow {
 public:
  explicit FakeWindow(std::string exported) : exported_(std::move(exported)) {}

  const std::string& exported() const override { return exported_; }
  absl::Status Connect(std::span<const std::string> exported) override {
    connected.assign(exported.begin(), exported.end());
    return connect_status;
  }
  Received Dispatch(const kernels::Matrix& x, const kernels::Quantized& xq,
                    const int32_t* ids) override {
    return {.x = x, .xq = xq, .ids = ids, .rows = 2 * x.rows};
  }
  kernels::Matrix Collect(const kernels::Matrix& expert_out) override { return expert_out; }
  absl::Status status() const override { return state; }
  void Abort() override { state = absl::CancelledError("ended"); }

  std::vector<std::string> connected;
  absl::Status connect_status, state;

 private:
  const std::string exported_;
};

TEST(PeerExchange, EveryRankLearnsWhereAllWindowsAre) {
  std::vector<std::unique_ptr<PeerExchange>> exchanges(3);
  std::vector<FakeWindow*> windows(3);
  LoopbackRanks ranks(3);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    auto window = std::make_unique<FakeWindow>("window " + std::string(100 * rank, 'x'));
    windows[size_t(rank)] = window.get();
    exchanges[size_t(rank)] = std::make_unique<PeerExchange>(std::move(window));
    PeerExchange& exchange = *exchanges[size_t(rank)];
    BALEEN_ASSERT_OK(exchange.Connect(*ranks.rank(rank).mesh));
    const std::vector<std::string> all = {"window ", "window " + std::string(100, 'x'),
                                          "window " + std::string(200, 'x')};
    EXPECT_EQ(windows[size_t(rank)]->connected, all);
    EXPECT_TRUE(exchange.recordable());
    EXPECT_TRUE(exchange.same_rows());
  });
}

TEST(PeerExchange, AWindowOutOfReachIsTheCallersError) {
  std::vector<std::unique_ptr<PeerExchange>> exchanges(2);
  LoopbackRanks ranks(2);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    auto window = std::make_unique<FakeWindow>("w");
    if (rank == 1) window->connect_status = absl::FailedPreconditionError("no peer access");
    exchanges[size_t(rank)] = std::make_unique<PeerExchange>(std::move(window));
    const absl::Status connected = exchanges[size_t(rank)]->Connect(*ranks.rank(rank).mesh);
    if (rank == 0) {
      BALEEN_EXPECT_OK(connected);
    } else {
      EXPECT_THAT(connected, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("access")));
    }
  });
}

TEST(PeerExchange, ABrokenMeshIsItsError) {
  LoopbackRanks ranks(2);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    if (rank == 1) return ranks.rank(1).mesh->Fail(absl::UnavailableError("gone"));
    ranks.rank(0).mesh->Fail(absl::UnavailableError("rank 1 is gone"));
    PeerExchange exchange(std::make_unique<FakeWindow>("w"));
    EXPECT_THAT(exchange.Connect(*ranks.rank(0).mesh),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1 is gone")));
  });
}

TEST(PeerExchange, WhatTheWindowSaysIsWhatCheckSays) {
  LoopbackRanks ranks(1);
  RankMesh& mesh = *ranks.rank(0).mesh;
  auto owned = std::make_unique<FakeWindow>("w");
  FakeWindow& window = *owned;
  PeerExchange exchange(std::move(owned));
  BALEEN_EXPECT_OK(exchange.Check(mesh));
  window.state = absl::UnavailableError("rank 1 did not come");
  EXPECT_EQ(exchange.Check(mesh), window.state);
  exchange.Abort();
  EXPECT_THAT(exchange.Check(mesh), StatusIs(absl::StatusCode::kCancelled, HasSubstr("ended")));
  EXPECT_EQ(mesh.rounds(), 0u);
}

// A window that cannot tell who was missing; rank 1 comes neither to the call nor to the round.
TEST(PeerExchange, TheRankThatDoesNotComeIsNamed) {
  const absl::Status late = absl::DeadlineExceededError("a rank did not come within 7 ms");
  std::vector<std::unique_ptr<PeerExchange>> exchanges(3);
  LoopbackRanks ranks(3, std::chrono::seconds(1));
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    auto window = std::make_unique<FakeWindow>("w");
    window->state = late;
    exchanges[size_t(rank)] = std::make_unique<PeerExchange>(std::move(window));
    if (rank == 1) return;
    const absl::Status named = exchanges[size_t(rank)]->Check(*ranks.rank(rank).mesh);
    EXPECT_THAT(named, StatusIs(absl::StatusCode::kUnavailable,
                                HasSubstr("within 7 ms: decode rank 1 did not answer")));
  });
}

TEST(PeerExchange, ARankThatDoesNotConnectIsNamed) {
  std::vector<std::unique_ptr<PeerExchange>> exchanges(2);
  LoopbackRanks ranks(2, std::chrono::seconds(1));
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    auto window = std::make_unique<FakeWindow>("w");
    if (rank == 0) window->connect_status = absl::DeadlineExceededError("not connected");
    exchanges[size_t(rank)] = std::make_unique<PeerExchange>(std::move(window));
    const absl::Status connected = exchanges[size_t(rank)]->Connect(*ranks.rank(rank).mesh);
    if (rank == 1) return;
    EXPECT_THAT(connected, StatusIs(absl::StatusCode::kUnavailable,
                                    HasSubstr("not connected: decode rank 1 did not answer")));
  });
}

// Late, but not lost.
TEST(PeerExchange, RanksThatAreAllBackAreSaidToBe) {
  std::vector<std::unique_ptr<PeerExchange>> exchanges(2);
  LoopbackRanks ranks(2);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    auto window = std::make_unique<FakeWindow>("w");
    window->state = absl::DeadlineExceededError("late");
    exchanges[size_t(rank)] = std::make_unique<PeerExchange>(std::move(window));
    EXPECT_THAT(exchanges[size_t(rank)]->Check(*ranks.rank(rank).mesh),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("late: all ranks are there")));
  });
}

}  // namespace
}  // namespace baleen::decode_worker
