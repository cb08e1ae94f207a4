// An expert exchange over NCCL as far as one GPU shows it: one rank, and ranks that do not connect.
#include "kernels/cuda/nccl_window.h"

#include <thread>
#include <tuple>

#include "kernels/cuda/window_threads.h"

namespace baleen::kernels {
namespace {

using ::baleen::testing::StatusIs;
using std::chrono::seconds;
using ::testing::HasSubstr;
using testing::WindowRank;

ExpertWindowOptions OverNccl(int ranks, int dim, bool fp8) {
  ExpertWindowOptions options = testing::WindowOptions(ranks, dim, fp8);
  options.wire = WindowWire::kNccl;
  return options;
}

class NcclWindow : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  ExpertWindowOptions options() const {
    return OverNccl(1, std::get<0>(GetParam()), std::get<1>(GetParam()));
  }
};
INSTANTIATE_TEST_SUITE_P(Shapes, NcclWindow,
                         ::testing::Values(std::tuple(256, true), std::tuple(7168, true),
                                           std::tuple(7168, false)));

TEST_P(NcclWindow, OneRankGetsWhatItBrought) { testing::ExpectCallsAsInOneProcess(options()); }

TEST_P(NcclWindow, RecordedCallsCanBeReplayed) { testing::ExpectReplaysAsInOneProcess(options()); }

class NcclWindowFaults : public ::testing::Test {
 protected:
  // Two windows on the same GPU, which only say where they are.
  void SetUp() override {
    options_.connect_deadline = seconds(2);
    for (options_.rank = 0; options_.rank < 2; ++options_.rank) {
      ranks_.push_back(std::make_unique<WindowRank>(options_));
      exported_.push_back(ranks_.back()->window->exported());
    }
  }

  ExpertWindowOptions options_ = OverNccl(2, 256, true);
  std::vector<std::unique_ptr<WindowRank>> ranks_;
  std::vector<std::string> exported_;
};

TEST_F(NcclWindowFaults, ARankThatDoesNotConnectIsNotWaitedForForEver) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(ranks_[0]->window->Connect(exported_),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("within 2000 ms")));
  ranks_.clear();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
}

TEST_F(NcclWindowFaults, AbortEndsTheConnecting) {
  const auto begin = std::chrono::steady_clock::now();
  std::jthread other([this] { ranks_[0]->window->Abort(); });
  EXPECT_EQ(ranks_[0]->window->Connect(exported_).code(), absl::StatusCode::kCancelled);
  // Nothing waits from then on.
  const WindowRank::Operands o = ranks_[0]->OneRow();
  for (int i = 0; i < 50; ++i) ranks_[0]->Dispatch(o);
  ranks_[0]->backend().Synchronize();
  EXPECT_EQ(ranks_[0]->window->status().code(), absl::StatusCode::kCancelled);
  ranks_.clear();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
}

TEST_F(NcclWindowFaults, TwoRanksOnOneGpuAreRefused) {
  std::vector<absl::Status> connected(2);
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < 2; ++r)
      threads.emplace_back([&, r] { connected[r] = ranks_[r]->window->Connect(exported_); });
  }
  for (const absl::Status& status : connected)
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("NCCL")));
}

TEST_F(NcclWindowFaults, RanksThatDifferAreRefusedByName) {
  const auto refused = [&](auto change, const char* text) {
    ExpertWindowOptions options = options_;
    options.rank = 1;
    change(options);
    const WindowRank other(options);
    EXPECT_THAT(ranks_[0]->window->Connect(std::vector{exported_[0], other.window->exported()}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  refused([](auto& o) { o.max_rows = 8; }, "max_sequences");
  refused([](auto& o) { o.topk = 2; }, "topk is 2, of rank 0 it is 4");
  refused([](auto& o) { o.wire = WindowWire::kPeerMemory; }, "expert_exchange");
  EXPECT_THAT(ranks_[0]->window->Connect(std::vector{exported_[0], std::string()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 1 has no")));
  EXPECT_THAT(ranks_[1]->window->Connect(std::vector{exported_[0] + "x", exported_[1]}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 0 sends 129 bytes")));
}

}  // namespace
}  // namespace baleen::kernels
