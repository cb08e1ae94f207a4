// Expert exchanges between two GPUs of one machine (label gpu2), over NCCL and over peer memory.
#include <tuple>

#include "kernels/cuda/window_threads.h"

namespace baleen::kernels {

// Names the test cases.
void PrintTo(WindowWire wire, std::ostream* out) {
  *out << (wire == WindowWire::kNccl ? "nccl" : "peer_memory");
}

namespace {

using ::baleen::testing::StatusIs;
using std::chrono::seconds;
using ::testing::HasSubstr;
using testing::Rows;
using testing::WindowRank;
using testing::WindowThreads;

ExpertWindowOptions TwoRanks(WindowWire wire, int dim, bool fp8) {
  ExpertWindowOptions options = testing::WindowOptions(2, dim, fp8);
  options.wire = wire;
  return options;
}

class TwoGpus : public ::testing::TestWithParam<std::tuple<WindowWire, int, bool>> {
 protected:
  ExpertWindowOptions options() const {
    const auto [wire, dim, fp8] = GetParam();
    return TwoRanks(wire, dim, fp8);
  }
};
INSTANTIATE_TEST_SUITE_P(Shapes, TwoGpus,
                         ::testing::Combine(::testing::Values(WindowWire::kPeerMemory,
                                                              WindowWire::kNccl),
                                            ::testing::Values(256, 7168), ::testing::Bool()));

TEST_P(TwoGpus, RowsReachTheirExpertsAndOutputsTheirRows) {
  testing::ExpectCallsAsInOneProcess(options());
}

TEST_P(TwoGpus, RecordedCallsCanBeReplayed) { testing::ExpectReplaysAsInOneProcess(options()); }

// Every rank's results, those of pairs without an expert as zeros.
std::vector<std::vector<uint8_t>> ResultsOver(WindowWire wire, bool fp8) {
  constexpr int kRows = 33;
  std::vector<std::vector<uint8_t>> all(2);
  WindowThreads group(TwoRanks(wire, 7168, fp8));
  group.Run([&](WindowRank& rank, int r) {
    const Rows own = group.RowsOf(kRows, 7)[size_t(r)];
    rank.Dispatch(rank.Put(own, kRows));
    const Matrix results =
        rank.window->Collect(rank.PutOutputs(group.OutputsOf(kRows, 7)[size_t(r)]));
    auto& bytes = all[size_t(r)];
    bytes = rank.Download(static_cast<const uint8_t*>(results.data),
                          size_t(results.rows) * rank.out_bytes());
    for (size_t pair = 0; pair < own.ids.size(); ++pair)
      if (own.ids[pair] < 0)
        std::fill_n(bytes.begin() + pair * rank.out_bytes(), rank.out_bytes(), uint8_t{0});
  });
  return all;
}

TEST(Wires, GiveTheSameResults) {
  for (const bool fp8 : {true, false})
    EXPECT_EQ(ResultsOver(WindowWire::kNccl, fp8), ResultsOver(WindowWire::kPeerMemory, fp8));
}

// Rank 0 makes a call, as it is or recorded, that rank 1 does not; then `end` ends it.
void ExpectItEnds(ExpertWindowOptions options, bool recorded,
                  const std::function<void(WindowRank&)>& end, absl::StatusCode code,
                  const char* text) {
  WindowThreads group(options);
  group.Run([&](WindowRank& rank, int r) {
    const WindowRank::Operands o = rank.OneRow();
    rank.Dispatch(o);
    rank.backend().Synchronize();
    auto recording = rank.backend().Record([&] { rank.Dispatch(o); });
    group.Meet();
    if (r == 0) {
      const auto begin = std::chrono::steady_clock::now();
      recorded ? recording->Replay() : void(rank.Dispatch(o));
      end(rank);
      rank.backend().Synchronize();
      EXPECT_THAT(rank.window->status(), StatusIs(code, HasSubstr(text)));
      // Neither later calls nor recordings wait.
      for (int i = 0; i < 10; ++i) {
        rank.Dispatch(o);
        recording->Replay();
      }
      rank.backend().Synchronize();
      EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(10));
    } else {
      BALEEN_EXPECT_OK(rank.window->status());
    }
    recording.reset();
  });
}

class Waiting : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Recorded, Waiting, ::testing::Bool());

TEST_P(Waiting, EndsWithAbort) {
  ExpectItEnds(
      TwoRanks(WindowWire::kNccl, 256, true), GetParam(),
      [](WindowRank& rank) { rank.window->Abort(); }, absl::StatusCode::kCancelled, "was ended");
}

TEST_P(Waiting, EndsWithTheDeadline) {
  ExpertWindowOptions options = TwoRanks(WindowWire::kNccl, 256, true);
  options.deadline = seconds(1);
  ExpectItEnds(
      options, GetParam(), [](WindowRank&) {}, absl::StatusCode::kDeadlineExceeded,
      "a rank did not come within 1000 ms");
}

}  // namespace
}  // namespace baleen::kernels
