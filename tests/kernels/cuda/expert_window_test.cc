// All ranks of a group in this process, on one GPU: each has a backend, and so a stream, of its
// own.
#include "kernels/expert_window.h"

#include <tuple>

#include "kernels/cuda/expert_window.h"
#include "kernels/cuda/window_rank.h"

namespace baleen::kernels {
namespace {

using ::baleen::testing::StatusIs;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::Noise;
using testing::Rows;
using testing::SomeRows;
using testing::WindowOptions;
using testing::WindowRank;

std::vector<std::unique_ptr<WindowRank>> MakeGroup(ExpertWindowOptions options) {
  std::vector<std::unique_ptr<WindowRank>> group;
  std::vector<std::string> exported;
  for (options.rank = 0; options.rank < options.ranks; ++options.rank) {
    group.push_back(std::make_unique<WindowRank>(options));
    exported.push_back(group.back()->window->exported());
  }
  for (const auto& rank : group) BALEEN_EXPECT_OK(rank->window->Connect(exported));
  return group;
}

class ExpertWindows : public ::testing::TestWithParam<std::tuple<int, int, bool>> {
 protected:
  void SetUp() override {
    const auto [ranks, dim, fp8] = GetParam();
    options_ = WindowOptions(ranks, dim, fp8);
    group_ = MakeGroup(options_);
  }
  ExpertWindowOptions options_;
  std::vector<std::unique_ptr<WindowRank>> group_;
};
INSTANTIATE_TEST_SUITE_P(Shapes, ExpertWindows,
                         ::testing::Values(std::tuple(1, 256, true), std::tuple(2, 7168, true),
                                           std::tuple(4, 256, false), std::tuple(8, 7168, true)));

TEST_P(ExpertWindows, RowsReachTheirExpertsAndOutputsTheirRows) {
  uint32_t seed = 1;
  for (const int count : {5, 40, 0, 1, 17}) {
    std::vector<Rows> rows;
    std::vector<WindowRank::Operands> operands;
    std::vector<std::vector<uint8_t>> outputs;
    std::vector<Matrix> device_outputs;
    for (int r = 0; r < options_.ranks; ++r) {
      rows.push_back(SomeRows(options_, count, seed++));
      WindowRank& rank = *group_[size_t(r)];
      operands.push_back(rank.Put(rows.back(), count));
      const int pairs = options_.ranks * count * options_.topk;
      outputs.push_back(Noise(size_t(pairs) * rank.out_bytes(), seed++));
      device_outputs.push_back(rank.PutOutputs(outputs.back()));
    }
    std::vector<ExpertWindow::Received> received;
    for (int r = 0; r < options_.ranks; ++r)
      received.push_back(group_[size_t(r)]->Dispatch(operands[size_t(r)]));
    for (int r = 0; r < options_.ranks; ++r)
      group_[size_t(r)]->ExpectReceived(received[size_t(r)], rows, count);
    std::vector<Matrix> results;
    for (int r = 0; r < options_.ranks; ++r)
      results.push_back(group_[size_t(r)]->window->Collect(device_outputs[size_t(r)]));
    for (int r = 0; r < options_.ranks; ++r) {
      group_[size_t(r)]->ExpectResults(results[size_t(r)], rows[size_t(r)], outputs, count);
      BALEEN_EXPECT_OK(group_[size_t(r)]->window->status());
    }
  }
}

// A recorded call is a new call each time it is replayed.
TEST_P(ExpertWindows, RecordedCallsCanBeReplayed) {
  constexpr int kRows = 9;
  std::vector<WindowRank::Operands> operands;
  for (int r = 0; r < options_.ranks; ++r)
    operands.push_back(group_[size_t(r)]->Put(SomeRows(options_, kRows, r), kRows));
  const auto issue = [&](int r) { return group_[size_t(r)]->Dispatch(operands[size_t(r)]); };
  std::vector<ExpertWindow::Received> received;
  for (int r = 0; r < options_.ranks; ++r) received.push_back(issue(r));  // each op has run before
  std::vector<std::unique_ptr<Backend::Recording>> recordings;
  for (int r = 0; r < options_.ranks; ++r)
    recordings.push_back(group_[size_t(r)]->backend().Record([&] { issue(r); }));
  for (uint32_t round = 0; round < 5; ++round) {
    std::vector<Rows> rows;
    for (int r = 0; r < options_.ranks; ++r) {
      rows.push_back(SomeRows(options_, kRows, 100 * round + uint32_t(r)));
      group_[size_t(r)]->Replace(operands[size_t(r)], rows.back());
    }
    for (int r = 0; r < options_.ranks; ++r) recordings[size_t(r)]->Replay();
    // Nobody collects here: this is what keeps a rank from running ahead.
    for (int r = 0; r < options_.ranks; ++r) group_[size_t(r)]->backend().Synchronize();
    for (int r = 0; r < options_.ranks; ++r)
      group_[size_t(r)]->ExpectReceived(received[size_t(r)], rows, kRows);
  }
}

class ExpertWindowFaults : public ::testing::Test {};

TEST_F(ExpertWindowFaults, ARankThatDoesNotComeIsNamed) {
  ExpertWindowOptions options = WindowOptions(3, 256, true);
  options.deadline = milliseconds(200);
  auto group = MakeGroup(options);
  const WindowRank::Operands none = group[0]->NoRows();
  for (const int r : {0, 2}) group[size_t(r)]->Dispatch(none);
  for (const int r : {0, 2}) {
    group[size_t(r)]->backend().Synchronize();
    EXPECT_THAT(group[size_t(r)]->window->status(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1 did not come")));
  }
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) group[0]->Dispatch(none);
  group[0]->backend().Synchronize();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(200)) << "it still waits";
}

TEST_F(ExpertWindowFaults, AbortEndsTheWaiting) {
  auto group = MakeGroup(WindowOptions(2, 256, true));
  const WindowRank::Operands none = group[0]->NoRows();
  const auto begin = std::chrono::steady_clock::now();
  group[0]->Dispatch(none);
  group[0]->window->Abort();
  group[0]->backend().Synchronize();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(group[0]->window->status().code(), absl::StatusCode::kCancelled);
  BALEEN_EXPECT_OK(group[1]->window->status());
}

// What it computes without the others' rows must not be taken for its part.
TEST_F(ExpertWindowFaults, ARankThatGaveUpSendsNothingMore) {
  constexpr int kRows = 5;
  ExpertWindowOptions options = WindowOptions(2, 256, true);
  options.deadline = std::chrono::seconds(30);
  auto group = MakeGroup(options);
  std::vector<WindowRank::Operands> operands;
  std::vector<Matrix> outputs;
  const size_t pairs = size_t(options.ranks * kRows * options.topk);
  for (uint32_t r = 0; r < 2; ++r) {
    operands.push_back(group[r]->Put(SomeRows(options, kRows, r), kRows));
    outputs.push_back(group[r]->PutOutputs(Noise(pairs * group[r]->out_bytes(), r)));
  }
  for (uint32_t r = 0; r < 2; ++r) group[r]->Dispatch(operands[r]);
  for (uint32_t r = 0; r < 2; ++r) group[r]->backend().Synchronize();
  group[0]->window->Abort();
  EXPECT_EQ(group[0]->window->status().code(), absl::StatusCode::kCancelled);
  group[0]->window->Collect(outputs[0]);
  group[0]->Dispatch(operands[0]);
  group[0]->backend().Synchronize();
  BALEEN_EXPECT_OK(group[1]->window->status());
  const auto begin = std::chrono::steady_clock::now();
  group[1]->window->Collect(outputs[1]);
  group[1]->backend().Synchronize();
  EXPECT_THAT(group[1]->window->status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 0 did not come")));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, options.deadline) << "it was told";
}

TEST_F(ExpertWindowFaults, RanksThatDifferAreRefusedByName) {
  ExpertWindowOptions options = WindowOptions(2, 256, true);
  WindowRank first(options);
  options.rank = 1;
  options.max_rows = 8;
  WindowRank second(options);
  EXPECT_THAT(
      first.window->Connect(std::vector{first.window->exported(), second.window->exported()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_sequences")));
  EXPECT_THAT(second.window->Connect(std::vector{std::string(), second.window->exported()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 0")));
}

// As between GPUs without peer access: a window said to be another process's, which this one's
// handles cannot be opened for.
TEST_F(ExpertWindowFaults, AWindowThatCannotBeMappedNamesItsRank) {
  ExpertWindowOptions options = WindowOptions(2, 256, true);
  WindowRank first(options);
  options.rank = 1;
  WindowRank second(options);
  std::string elsewhere = second.window->exported();
  const int64_t process = 1;
  std::memcpy(elsewhere.data() + sizeof(cuda::WindowShape), &process, sizeof(process));
  EXPECT_THAT(first.window->Connect(std::vector{first.window->exported(), elsewhere}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("the expert exchange of rank 1: cuda: mapping a peer's memory")));
}

TEST_F(ExpertWindowFaults, SizesThatCannotBeAreRefused) {
  auto backend = MakeCudaBackend(0);
  ASSERT_TRUE(backend.ok());
  const auto refused = [&](auto change, const char* text) {
    ExpertWindowOptions options = WindowOptions(2, 256, true);
    change(options);
    EXPECT_THAT((*backend)->MakeExpertWindow(options).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  refused([](auto& o) { o.experts = 7; }, "7 experts");
  refused([](auto& o) { o.rank = 2; }, "rank 2 of 2");
  refused([](auto& o) { o.dim = 100; }, "dim 100");
  refused([](auto& o) { o.ranks = 65; }, "at most 64");
}

}  // namespace
}  // namespace baleen::kernels
