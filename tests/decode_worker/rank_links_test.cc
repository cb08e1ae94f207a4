#include "decode_worker/rank_links.h"

#include <atomic>
#include <latch>

#include "decode_worker/loopback_ranks.h"
#include "decode_worker/step_agreement.h"
#include "decode_worker/transport_exchange.h"
#include "testing/status_matchers.h"

namespace baleen::decode_worker {
namespace {

using baleen::testing::LoopbackRanks;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(RankLinks, RanksMeetWhateverTheOrderAndAgree) {
  LoopbackRanks ranks(4);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    for (int step = 0; step < 100; ++step) {
      const auto plan = Agree(*ranks.rank(rank).mesh, {.sequences = rank + step});
      BALEEN_ASSERT_OK(plan.status());
      EXPECT_EQ(plan->total_sequences, 0 + 1 + 2 + 3 + 4 * step);
    }
    // As the decode loop does: from here on siblings may go.
    ranks.rank(rank).rank_links->Finish();
  });
  for (int rank = 0; rank < 4; ++rank) BALEEN_EXPECT_OK(ranks.rank(rank).broken);
}

TEST(RankLinks, OneRankNeedsNobody) {
  LoopbackRanks ranks(1);
  BALEEN_ASSERT_OK(ranks.Connect(0));
  EXPECT_TRUE(Agree(*ranks.rank(0).mesh, {.sequences = 1}).ok());
}

TEST(RankLinks, ExpertsOverTheWireEqualTheLocalOnes) {
  constexpr int kSize = 4, kRows = 6, kTopk = 2, kDim = 32;
  std::vector<std::unique_ptr<TransportExchange>> exchanges(kSize);  // they outlive the links
  LoopbackRanks ranks(kSize);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    RankMesh& mesh = *ranks.rank(rank).mesh;
    auto created = TransportExchange::Create(
        mesh, {.experts = 8, .dim = kDim, .topk = kTopk, .max_rows = kRows});
    BALEEN_ASSERT_OK(created.status());
    exchanges[size_t(rank)] = *std::move(created);
    TransportExchange* exchange = exchanges[size_t(rank)].get();
    for (int layer = 0; layer < 50; ++layer) {
      const int rows = rank == layer % kSize ? 0 : kRows;
      std::vector<float> x(size_t(rows * kDim));
      for (size_t i = 0; i < x.size(); ++i) x[i] = float(i) + 1000.f * float(rank);
      std::vector<int32_t> ids;
      for (int r = 0; r < rows; ++r) {
        ids.push_back((r + layer) % 8);
        ids.push_back((r * 3 + rank + 1 + layer) % 8);
      }
      const auto in = exchange->Dispatch(
          {.data = x.data(), .rows = rows, .cols = kDim, .stride = kDim}, {}, ids.data(), kTopk);
      std::vector<float> out(size_t(in.rows * kTopk * kDim), -1.f);
      for (int pair = 0; pair < in.rows * kTopk; ++pair)
        for (int c = 0; c < kDim; ++c)
          out[size_t(pair * kDim + c)] = in.x.row<float>(pair / kTopk)[c] * 3 + float(in.ids[pair]);
      const auto result = exchange->Collect(
          {.data = out.data(), .rows = in.rows * kTopk, .cols = kDim, .stride = kDim});
      ASSERT_EQ(result.rows, rows * kTopk);
      for (int pair = 0; pair < rows * kTopk; ++pair)
        for (int c = 0; c < kDim; ++c)
          ASSERT_EQ(result.row<float>(pair)[c],
                    x[size_t(pair / kTopk * kDim + c)] * 3 + float(ids[size_t(pair)]));
    }
    ranks.rank(rank).rank_links->Finish();
  });
}

TEST(RankLinks, ABrokenLinkNamesTheRankAtOnce) {
  LoopbackRanks ranks(2);
  std::latch up(2);
  ranks.Run([&](int rank) {
    BALEEN_ASSERT_OK(ranks.Connect(rank));
    up.arrive_and_wait();
    if (rank == 0) {
      ranks.hub().Break(LoopbackRanks::Name(0), LoopbackRanks::Name(1));
      return;
    }
    // Idle, so only the link can tell; nothing polls.
    EXPECT_FALSE(ranks.rank(1).mesh->WaitForPeers());
    EXPECT_THAT(ranks.rank(1).mesh->status(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("decode rank 0 is gone")));
  });
}

TEST(RankLinks, ARankThatNeverComesIsNamed) {
  LoopbackRanks ranks(2);
  ranks.hub().DropAfter(0);
  std::vector<kv_transfer::PeerAddress> addresses = {ranks.rank(0).links->Self(),
                                                     ranks.rank(1).links->Self()};
  EXPECT_THAT(ranks.rank(0).rank_links->Connect(*ranks.rank(0).mesh, addresses,
                                                std::chrono::milliseconds(50)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("decode rank 1")));
}

TEST(RankLinks, AfterFinishAVanishedSiblingIsNoFailure) {
  LoopbackRanks ranks(2);
  ranks.Run([&](int rank) { BALEEN_ASSERT_OK(ranks.Connect(rank)); });
  for (int rank = 0; rank < 2; ++rank) ranks.rank(rank).rank_links->Finish();
  ranks.hub().Break(LoopbackRanks::Name(0), LoopbackRanks::Name(1));
  // The break is handled on both transports' threads before this task.
  for (int rank = 0; rank < 2; ++rank) {
    std::latch done(1);
    ranks.rank(rank).transport->Post([&] { done.count_down(); });
    done.wait();
    BALEEN_EXPECT_OK(ranks.rank(rank).mesh->status());
  }
}

}  // namespace
}  // namespace baleen::decode_worker
