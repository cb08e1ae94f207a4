#pragma once

#include <barrier>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/window_rank.h"

namespace baleen::kernels::testing {

// The ranks of a group, each on a GPU and a thread of its own: rank r has device r.
class WindowThreads {
 public:
  explicit WindowThreads(ExpertWindowOptions options)
      : options_(options), exported_(size_t(options.ranks)), meeting_(options.ranks) {}

  // `body` once for each rank, when all are connected. It must not return before all ranks have
  // met as often as the others, so it has expectations only.
  void Run(const std::function<void(WindowRank&, int r)>& body) {
    std::vector<std::jthread> threads;
    for (int r = 0; r < options_.ranks; ++r)
      threads.emplace_back([this, r, &body] { RunRank(r, body); });
  }
  void Meet() { meeting_.arrive_and_wait(); }

  // What all ranks bring in round `round`, and what they compute of it; the same on every thread.
  std::vector<Rows> RowsOf(int count, uint32_t round) const {
    std::vector<Rows> rows;
    for (int r = 0; r < options_.ranks; ++r)
      rows.push_back(SomeRows(options_, count, 100 * round + uint32_t(r)));
    return rows;
  }
  std::vector<std::vector<uint8_t>> OutputsOf(int count, uint32_t round) const {
    std::vector<std::vector<uint8_t>> outputs;
    const size_t bytes = size_t(options_.ranks) * count * options_.topk * options_.dim * 2;
    for (int r = 0; r < options_.ranks; ++r)
      outputs.push_back(Noise(bytes, 100 * round + 50 + uint32_t(r)));
    return outputs;
  }

 private:
  void RunRank(int r, const std::function<void(WindowRank&, int)>& body) {
    ExpertWindowOptions options = options_;
    options.rank = r;
    WindowRank rank(options, /*device=*/r);
    exported_[size_t(r)] = rank.window->exported();
    Meet();
    BALEEN_EXPECT_OK(rank.window->Connect(exported_));
    Meet();  // a device that waits does not hold up another rank's connecting
    body(rank, r);
    Meet();  // nobody leaves while another one may still write to it
  }

  const ExpertWindowOptions options_;
  std::vector<std::string> exported_;
  std::barrier<> meeting_;
};

// Calls of several sizes give, bit for bit, what an exchange within one process gives: each row
// with its ids where its experts are, each output where its row is.
inline void ExpectCallsAsInOneProcess(const ExpertWindowOptions& options) {
  WindowThreads group(options);
  group.Run([&](WindowRank& rank, int r) {
    uint32_t round = 0;
    for (const int count : {5, 40, 0, 1, 17}) {
      const std::vector<Rows> rows = group.RowsOf(count, ++round);
      const auto outputs = group.OutputsOf(count, round);
      rank.ExpectReceived(rank.Dispatch(rank.Put(rows[size_t(r)], count)), rows, count);
      const Matrix results = rank.window->Collect(rank.PutOutputs(outputs[size_t(r)]));
      rank.ExpectResults(results, rows[size_t(r)], outputs, count);
    }
    BALEEN_EXPECT_OK(rank.window->status());
  });
}

// The same of recorded calls, which are new calls each time they are replayed.
inline void ExpectReplaysAsInOneProcess(const ExpertWindowOptions& options) {
  constexpr int kRows = 9;
  WindowThreads group(options);
  group.Run([&](WindowRank& rank, int r) {
    const WindowRank::Operands operands = rank.Put(group.RowsOf(kRows, 0)[size_t(r)], kRows);
    const Matrix out = rank.PutOutputs(group.OutputsOf(kRows, 0)[size_t(r)]);
    ExpertWindow::Received received;
    Matrix results;
    const auto issue = [&] {
      received = rank.Dispatch(operands);
      results = rank.window->Collect(out);
    };
    issue();  // each op has run before
    rank.backend().Synchronize();
    const auto recording = rank.backend().Record(issue);
    for (uint32_t round = 1; round < 6; ++round) {
      const std::vector<Rows> rows = group.RowsOf(kRows, round);
      const auto outputs = group.OutputsOf(kRows, round);
      rank.Replace(operands, rows[size_t(r)]);
      rank.backend().CopyIn(out.data, outputs[size_t(r)].data(), outputs[size_t(r)].size());
      recording->Replay();
      rank.ExpectReceived(received, rows, kRows);
      rank.ExpectResults(results, rows[size_t(r)], outputs, kRows);
    }
    BALEEN_EXPECT_OK(rank.window->status());
  });
}

}  // namespace baleen::kernels::testing
