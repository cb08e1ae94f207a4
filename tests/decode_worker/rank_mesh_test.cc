#include "decode_worker/rank_mesh.h"

#include <atomic>

#include "decode_worker/direct_ranks.h"
#include "decode_worker/step_agreement.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::DirectRanks;
using baleen::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<RankMesh::Outgoing> ToAll(const RankMesh& mesh, RankMesh::Words words,
                                      std::span<const std::byte> payload = {}) {
  return std::vector<RankMesh::Outgoing>(size_t(mesh.size()),
                                         {.words = words, .payload = {payload}});
}

TEST(RankMesh, EveryRankGetsEveryOthersMessageInEveryRound) {
  DirectRanks ranks(4);
  ranks.Run([&](int rank) {
    RankMesh& mesh = ranks.mesh(rank);
    std::vector<std::byte> staging[2];
    for (int round = 0; round < 500; ++round) {
      mesh.WaitSent();
      auto& bytes = staging[mesh.parity()];
      bytes.assign(size_t(round % 7), std::byte(rank));
      BALEEN_ASSERT_OK(mesh.Exchange(RankMesh::Kind::kDispatch, ToAll(mesh, {rank, round}, bytes)));
      for (int peer = 0; peer < 4; ++peer) {
        if (peer == rank) continue;
        ASSERT_EQ(mesh.From(peer).words, (RankMesh::Words{peer, round}));
        ASSERT_EQ(mesh.From(peer).payload.size(), size_t(round % 7));
        for (std::byte b : mesh.From(peer).payload.span()) ASSERT_EQ(b, std::byte(peer));
      }
    }
  });
}

TEST(RankMesh, NamesTheRankThatDoesNotAnswer) {
  DirectRanks ranks(3, std::chrono::milliseconds(50));
  ranks.Run([&](int rank) {
    if (rank == 1) return;
    EXPECT_THAT(ranks.mesh(rank).Exchange(RankMesh::Kind::kDispatch, ToAll(ranks.mesh(rank), {})),
                StatusIs(absl::StatusCode::kUnavailable,
                         AllOf(HasSubstr("rank 1 did not answer"), HasSubstr("dispatch"))));
  });
  EXPECT_FALSE(ranks.failure(0).ok());
  EXPECT_FALSE(ranks.failure(2).ok());
}

TEST(RankMesh, FirstFailureStaysAndIsReportedOnce) {
  int reported = 0;
  RankMesh mesh({.size = 2, .broken = [&](const absl::Status&) { ++reported; }}, [](auto, int) {});
  mesh.Fail(absl::UnavailableError("first"));
  mesh.Fail(absl::InternalError("second"));
  EXPECT_EQ(reported, 1);
  EXPECT_THAT(mesh.Exchange(RankMesh::Kind::kAgree, ToAll(mesh, {})),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("first")));
  EXPECT_FALSE(mesh.WaitForPeers());
}

TEST(RankMesh, RanksAtDifferentPlacesAreOutOfStep) {
  DirectRanks ranks(2);
  std::atomic<int> internal = 0;
  ranks.Run([&](int rank) {
    const auto kind = rank == 0 ? RankMesh::Kind::kAgree : RankMesh::Kind::kCollect;
    const absl::Status status = ranks.mesh(rank).Exchange(kind, ToAll(ranks.mesh(rank), {}));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("out of step")));
    ++internal;
  });
  EXPECT_EQ(internal, 2);
}

TEST(RankMesh, RefusesMalformedHeaders) {
  DirectRanks ranks(2);
  ranks.mesh(0).Deliver(1, std::vector<std::byte>(7), {});
  EXPECT_THAT(ranks.failure(0), StatusIs(absl::StatusCode::kInternal, HasSubstr("rank 1")));
}

TEST(RankMesh, WakeEndsTheIdleWaitWithoutAPeer) {
  DirectRanks ranks(2);
  std::jthread waker([&] { ranks.mesh(0).Wake(); });
  EXPECT_FALSE(ranks.mesh(0).WaitForPeers());
}

TEST(StepAgreement, IdleRanksAreWokenByARankWithWork) {
  DirectRanks ranks(4);
  ranks.Run([&](int rank) {
    for (int turn = 0; turn < 50; ++turn) {
      const bool works = turn % 4 == rank;
      if (!works) {
        EXPECT_TRUE(ranks.mesh(rank).WaitForPeers());
      }
      const auto plan = Agree(ranks.mesh(rank), {.sequences = works ? 5 : 0});
      BALEEN_ASSERT_OK(plan.status());
      EXPECT_EQ(plan->total_sequences, 5);
      EXPECT_FALSE(plan->finished);
    }
  });
}

TEST(StepAgreement, FinishesWhenEveryRankIsDrainedAndOneWantsToEnd) {
  using P = StepProposal;
  EXPECT_TRUE(Merge(std::vector<P>{{0, true, true}, {0, true, false}}).finished);
  EXPECT_FALSE(Merge(std::vector<P>{{0, true, false}, {0, true, false}}).finished);
  EXPECT_FALSE(Merge(std::vector<P>{{0, true, true}, {0, false, true}}).finished);
  EXPECT_FALSE(Merge(std::vector<P>{{0, true, true}, {3, false, false}}).finished);
  const StepPlan plan = Merge(std::vector<P>{{2, false}, {0, true}, {7, false}});
  EXPECT_EQ(plan.total_sequences, 9);
}

TEST(StepAgreement, OneRankAgreesWithItself) {
  RankMesh mesh({}, [](auto, int) { FAIL(); });
  EXPECT_EQ(Agree(mesh, {.sequences = 3})->total_sequences, 3);
  EXPECT_TRUE(Agree(mesh, {.drained = true, .exit = true})->finished);
}

}  // namespace
}  // namespace baleen::decode_worker
