// All ranks of a group in this process, on one GPU: each has a backend, and so a stream, of its
// own.
#include "kernels/expert_window.h"

#include <map>
#include <random>
#include <set>
#include <tuple>

#include "common/check.h"
#include "kernels/cuda/parity.h"
#include "testing/status_matchers.h"

namespace baleen::kernels {
namespace {

using ::baleen::testing::StatusIs;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class Rank {
 public:
  Rank(const ExpertWindowOptions& options) : options_(options) {
    auto backend = MakeCudaBackend(0);
    BALEEN_CHECK(backend.ok());
    backend_ = *std::move(backend);
    auto window = backend_->MakeExpertWindow(options);
    BALEEN_CHECK_MSG(window.ok(), window.status().ToString().c_str());
    this->window = *std::move(window);
  }
  ~Rank() {
    backend_->Synchronize();
    window.reset();
    for (void* p : memory_) backend_->Free(p);
  }

  template <typename T>
  T* Upload(const std::vector<T>& host) {
    void* p = backend_->Allocate(host.size() * sizeof(T));
    memory_.push_back(p);
    backend_->CopyIn(p, host.data(), host.size() * sizeof(T));
    backend_->Synchronize();
    return static_cast<T*>(p);
  }
  template <typename T>
  std::vector<T> Download(const T* device, size_t count) {
    std::vector<T> host(count);
    backend_->CopyOut(host.data(), device, count * sizeof(T));
    backend_->Synchronize();
    return host;
  }
  Backend& backend() { return *backend_; }

  std::unique_ptr<ExpertWindow> window;

 private:
  const ExpertWindowOptions options_;
  std::unique_ptr<Backend> backend_;
  std::vector<void*> memory_;
};

ExpertWindowOptions Options(int ranks, int dim, bool fp8) {
  return {.ranks = ranks,
          .experts = 8 * ranks,
          .topk = 4,
          .dim = dim,
          .max_rows = 40,
          .fp8 = fp8,
          .deadline = std::chrono::seconds(20)};
}

std::vector<std::unique_ptr<Rank>> MakeGroup(ExpertWindowOptions options) {
  std::vector<std::unique_ptr<Rank>> group;
  std::vector<std::string> exported;
  for (options.rank = 0; options.rank < options.ranks; ++options.rank) {
    group.push_back(std::make_unique<Rank>(options));
    exported.push_back(group.back()->window->exported());
  }
  for (const auto& rank : group) BALEEN_EXPECT_OK(rank->window->Connect(exported));
  return group;
}

std::vector<uint8_t> Noise(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> noise(bytes);
  for (uint8_t& b : noise) b = uint8_t(random());
  return noise;
}

// What a rank brings to a call.
struct Rows {
  std::vector<uint8_t> x;  // fp8 or bf16
  std::vector<float> scales;
  std::vector<int32_t> ids;
};

Rows SomeRows(const ExpertWindowOptions& o, int rows, uint32_t seed) {
  Rows r = {.x = Noise(size_t(rows) * o.dim * (o.fp8 ? 1 : 2), seed)};
  std::mt19937 random(seed);
  for (int i = 0; i < rows * o.dim / 128; ++i) r.scales.push_back(float(random()));
  for (int i = 0; i < rows; ++i) {
    std::set<int32_t> ids;  // distinct; some rows have fewer, and some none
    const int count = i % 7 == 6 ? 0 : 1 + i % o.topk;
    while (int(ids.size()) < count) ids.insert(int32_t(random() % uint32_t(o.experts)));
    r.ids.insert(r.ids.end(), ids.begin(), ids.end());
    r.ids.insert(r.ids.end(), size_t(o.topk - count), -1);
  }
  return r;
}

class ExpertWindows : public ::testing::TestWithParam<std::tuple<int, int, bool>> {
 protected:
  void SetUp() override {
    const auto [ranks, dim, fp8] = GetParam();
    options_ = Options(ranks, dim, fp8);
    group_ = MakeGroup(options_);
  }
  int OwnerOf(int32_t id) const { return id < 0 ? -1 : id / (options_.experts / options_.ranks); }
  size_t x_bytes() const { return size_t(options_.dim) * (options_.fp8 ? 1 : 2); }
  size_t out_bytes() const { return size_t(options_.dim) * 2; }

  // Rank `r`'s rows on its device.
  struct Operands {
    Matrix x;
    Quantized xq;
    const int32_t* ids;
  };
  Operands Put(int r, const Rows& rows, int count) {
    Rank& rank = *group_[size_t(r)];
    uint8_t* const x = rank.Upload(rows.x);
    Operands o = {.x = {x, DType::kBf16, count, options_.dim, options_.dim},
                  .ids = rank.Upload(rows.ids)};
    if (options_.fp8) o.xq = {x, rank.Upload(rows.scales), count, options_.dim};
    return o;
  }

  void ExpectReceived(int r, const ExpertWindow::Received& in, const std::vector<Rows>& all,
                      int count) {
    Rank& rank = *group_[size_t(r)];
    ASSERT_EQ(in.rows, count * options_.ranks);
    const auto ids = rank.Download(in.ids, size_t(in.rows) * options_.topk);
    const auto* data = options_.fp8 ? in.xq.data : static_cast<const uint8_t*>(in.x.data);
    const auto x = rank.Download(data, size_t(in.rows) * x_bytes());
    const size_t scales_a_row = size_t(options_.dim / 128);
    std::vector<float> scales;
    if (options_.fp8) scales = rank.Download(in.xq.scales, size_t(in.rows) * scales_a_row);
    for (int i = 0; i < in.rows; ++i) {
      const Rows& from = all[size_t(i / count)];
      const size_t row = size_t(i % count);
      bool wanted = false;
      for (size_t j = 0; j < size_t(options_.topk); ++j) {
        const int32_t id = ids[size_t(i) * options_.topk + j];
        ASSERT_EQ(id, from.ids[row * options_.topk + j]);
        wanted = wanted || OwnerOf(id) == r;
      }
      if (!wanted) continue;
      ASSERT_EQ(std::memcmp(&x[size_t(i) * x_bytes()], &from.x[row * x_bytes()], x_bytes()), 0)
          << "rank " << r << " row " << i;
      if (options_.fp8) {
        ASSERT_EQ(std::memcmp(&scales[size_t(i) * scales_a_row], &from.scales[row * scales_a_row],
                              scales_a_row * sizeof(float)),
                  0);
      }
    }
  }

  // Rank `r`'s results are what the owner of each expert computed for that row.
  void ExpectResults(int r, const Matrix& results, const Rows& own,
                     const std::vector<std::vector<uint8_t>>& outputs, int count) {
    ASSERT_EQ(results.rows, count * options_.topk);
    const auto got = group_[size_t(r)]->Download(static_cast<const uint8_t*>(results.data),
                                                 size_t(results.rows) * out_bytes());
    for (int i = 0; i < results.rows; ++i) {
      const int owner = OwnerOf(own.ids[size_t(i)]);
      if (owner < 0) continue;
      const size_t there = (size_t(r) * count * options_.topk + i) * out_bytes();
      ASSERT_EQ(
          std::memcmp(&got[size_t(i) * out_bytes()], &outputs[size_t(owner)][there], out_bytes()),
          0)
          << "rank " << r << " pair " << i;
    }
  }

  ExpertWindowOptions options_;
  std::vector<std::unique_ptr<Rank>> group_;
};
INSTANTIATE_TEST_SUITE_P(Shapes, ExpertWindows,
                         ::testing::Values(std::tuple(1, 256, true), std::tuple(2, 7168, true),
                                           std::tuple(4, 256, false), std::tuple(8, 7168, true)));

TEST_P(ExpertWindows, RowsReachTheirExpertsAndOutputsTheirRows) {
  uint32_t seed = 1;
  for (const int count : {5, 40, 0, 1, 17}) {
    std::vector<Rows> rows;
    std::vector<Operands> operands;
    std::vector<std::vector<uint8_t>> outputs;
    std::vector<Matrix> device_outputs;
    for (int r = 0; r < options_.ranks; ++r) {
      rows.push_back(SomeRows(options_, count, seed++));
      operands.push_back(Put(r, rows.back(), count));
      const int pairs = options_.ranks * count * options_.topk;
      outputs.push_back(Noise(size_t(pairs) * out_bytes(), seed++));
      device_outputs.push_back({group_[size_t(r)]->Upload(outputs.back()), DType::kBf16, pairs,
                                options_.dim, options_.dim});
    }
    std::vector<ExpertWindow::Received> received;
    for (int r = 0; r < options_.ranks; ++r) {
      const Operands& o = operands[size_t(r)];
      received.push_back(group_[size_t(r)]->window->Dispatch(o.x, o.xq, o.ids));
    }
    for (int r = 0; r < options_.ranks; ++r) ExpectReceived(r, received[size_t(r)], rows, count);
    std::vector<Matrix> results;
    for (int r = 0; r < options_.ranks; ++r)
      results.push_back(group_[size_t(r)]->window->Collect(device_outputs[size_t(r)]));
    for (int r = 0; r < options_.ranks; ++r) {
      ExpectResults(r, results[size_t(r)], rows[size_t(r)], outputs, count);
      BALEEN_EXPECT_OK(group_[size_t(r)]->window->status());
    }
  }
}

// A recorded call is a new call each time it is replayed.
TEST_P(ExpertWindows, RecordedCallsCanBeReplayed) {
  constexpr int kRows = 9;
  std::vector<Operands> operands;
  for (int r = 0; r < options_.ranks; ++r)
    operands.push_back(Put(r, SomeRows(options_, kRows, r), kRows));
  const auto issue = [&](int r) {
    const Operands& o = operands[size_t(r)];
    return group_[size_t(r)]->window->Dispatch(o.x, o.xq, o.ids);
  };
  std::vector<ExpertWindow::Received> received;
  for (int r = 0; r < options_.ranks; ++r) received.push_back(issue(r));  // each op has run before
  std::vector<std::unique_ptr<Backend::Recording>> recordings;
  for (int r = 0; r < options_.ranks; ++r)
    recordings.push_back(group_[size_t(r)]->backend().Record([&] { issue(r); }));
  for (uint32_t round = 0; round < 5; ++round) {
    std::vector<Rows> rows;
    for (int r = 0; r < options_.ranks; ++r) {
      rows.push_back(SomeRows(options_, kRows, 100 * round + uint32_t(r)));
      Backend& backend = group_[size_t(r)]->backend();
      const Operands& o = operands[size_t(r)];
      void* to = options_.fp8 ? static_cast<void*>(o.xq.data) : o.x.data;
      backend.CopyIn(to, rows.back().x.data(), rows.back().x.size());
      if (options_.fp8)
        backend.CopyIn(o.xq.scales, rows.back().scales.data(), rows.back().scales.size() * 4);
      backend.CopyIn(const_cast<int32_t*>(o.ids), rows.back().ids.data(),
                     rows.back().ids.size() * 4);
      backend.Synchronize();
    }
    for (int r = 0; r < options_.ranks; ++r) recordings[size_t(r)]->Replay();
    // Nobody collects here: this is what keeps a rank from running ahead.
    for (int r = 0; r < options_.ranks; ++r) group_[size_t(r)]->backend().Synchronize();
    for (int r = 0; r < options_.ranks; ++r) ExpectReceived(r, received[size_t(r)], rows, kRows);
  }
}

class ExpertWindowFaults : public ::testing::Test {};

TEST_F(ExpertWindowFaults, ARankThatDoesNotComeIsNamed) {
  ExpertWindowOptions options = Options(3, 256, true);
  options.deadline = milliseconds(200);
  auto group = MakeGroup(options);
  const Matrix x = {nullptr, DType::kBf16, 0, 256, 256};
  const Quantized xq = {group[0]->Upload(std::vector<uint8_t>(16)),
                        group[0]->Upload(std::vector<float>(16)), 0, 256};
  for (const int r : {0, 2}) group[size_t(r)]->window->Dispatch(x, xq, nullptr);
  for (const int r : {0, 2}) {
    group[size_t(r)]->backend().Synchronize();
    EXPECT_THAT(group[size_t(r)]->window->status(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1 did not come")));
  }
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) group[0]->window->Dispatch(x, xq, nullptr);
  group[0]->backend().Synchronize();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(200)) << "it still waits";
}

TEST_F(ExpertWindowFaults, AbortEndsTheWaiting) {
  auto group = MakeGroup(Options(2, 256, true));
  const Matrix x = {nullptr, DType::kBf16, 0, 256, 256};
  const Quantized xq = {group[0]->Upload(std::vector<uint8_t>(16)),
                        group[0]->Upload(std::vector<float>(16)), 0, 256};
  const auto begin = std::chrono::steady_clock::now();
  group[0]->window->Dispatch(x, xq, nullptr);
  group[0]->window->Abort();
  group[0]->backend().Synchronize();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(group[0]->window->status().code(), absl::StatusCode::kCancelled);
  BALEEN_EXPECT_OK(group[1]->window->status());
}

TEST_F(ExpertWindowFaults, RanksThatDifferAreRefusedByName) {
  ExpertWindowOptions options = Options(2, 256, true);
  Rank first(options);
  options.rank = 1;
  options.max_rows = 8;
  Rank second(options);
  EXPECT_THAT(
      first.window->Connect(std::vector{first.window->exported(), second.window->exported()}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_sequences")));
  EXPECT_THAT(second.window->Connect(std::vector{std::string(), second.window->exported()}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 0")));
}

// As between GPUs without peer access: a window said to be another process's, which this one's
// handles cannot be opened for.
TEST_F(ExpertWindowFaults, AWindowThatCannotBeMappedNamesItsRank) {
  ExpertWindowOptions options = Options(2, 256, true);
  Rank first(options);
  options.rank = 1;
  Rank second(options);
  std::string elsewhere = second.window->exported();
  const int64_t process = 1;
  std::memcpy(elsewhere.data() + 8 * sizeof(int32_t), &process, sizeof(process));
  EXPECT_THAT(first.window->Connect(std::vector{first.window->exported(), elsewhere}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("the expert exchange of rank 1: cuda: mapping a peer's memory")));
}

TEST_F(ExpertWindowFaults, SizesThatCannotBeAreRefused) {
  auto backend = MakeCudaBackend(0);
  ASSERT_TRUE(backend.ok());
  const auto refused = [&](auto change, const char* text) {
    ExpertWindowOptions options = Options(2, 256, true);
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
