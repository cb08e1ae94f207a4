// The expert exchange of a MoE layer between GPUs of one machine, a thread a GPU, at the sizes of
// DeepSeek-V3.2: microseconds of a Dispatch and a Collect, replayed from a graph, over peer memory
// beside NCCL, and the bytes that a rank sends for them.
//
//   cuda_exchange_bench [RANKS]      default 2: the devices 0 and 1
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"

namespace baleen {
namespace {

using kernels::ExpertWindowOptions;
using kernels::WindowWire;

constexpr int kExperts = 256, kTopk = 8, kDim = 7168;
constexpr int kLayers = 58;  // of a graph: the MoE layers of a step
constexpr int kReplays = 10;
constexpr int kRounds = 5;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Check(const absl::Status& status) { BALEEN_CHECK_MSG(status.ok(), status.ToString().c_str()); }

// A row's experts, all different; the same for every run.
std::vector<int32_t> SomeIds(int rows, int rank) {
  std::mt19937 random(uint32_t(1000 * rows + rank));
  std::vector<int32_t> ids;
  for (int row = 0; row < rows; ++row) {
    std::set<int32_t> chosen;
    while (chosen.size() < kTopk) chosen.insert(int32_t(random() % kExperts));
    ids.insert(ids.end(), chosen.begin(), chosen.end());
  }
  return ids;
}

// What a rank sends to the others for a Dispatch and a Collect, in bytes, when `ids` are its own
// rows' and every rank's are like them.
double BytesSent(WindowWire wire, const std::vector<int32_t>& ids, int rank, int ranks) {
  const double row = kDim + double(kDim) / 128 * 4, row_ids = kTopk * 4, output = kDim * 2;
  const double rows = double(ids.size()) / kTopk;
  if (wire == WindowWire::kNccl) return (ranks - 1) * rows * (row + row_ids + kTopk * output);
  double bytes = (ranks - 1) * rows * row_ids;
  for (size_t first = 0; first < ids.size(); first += kTopk) {
    std::set<int> owners;
    for (size_t j = first; j < first + kTopk; ++j) {
      const int owner = ids[j] / (kExperts / ranks);
      if (owner == rank) continue;
      owners.insert(owner);
      bytes += output;
    }
    bytes += double(owners.size()) * row;
  }
  return bytes;
}

// All ranks of one case.
class Group {
 public:
  Group(WindowWire wire, int ranks, int rows)
      : options_{.wire = wire,
                 .ranks = ranks,
                 .experts = kExperts,
                 .topk = kTopk,
                 .dim = kDim,
                 .max_rows = rows,
                 .deadline = std::chrono::seconds(20)},
        exported_(size_t(ranks)),
        meeting_(ranks) {}

  // Seconds of a Dispatch and a Collect on rank 0: the median of some rounds.
  double Run() {
    {
      std::vector<std::jthread> threads;
      for (int r = 0; r < options_.ranks; ++r) threads.emplace_back([this, r] { RunRank(r); });
    }
    std::nth_element(seconds_.begin(), seconds_.begin() + kRounds / 2, seconds_.end());
    return seconds_[kRounds / 2];
  }

 private:
  void RunRank(int r) {
    auto backend = kernels::MakeCudaBackend(r);
    Check(backend.status());
    ExpertWindowOptions options = options_;
    options.rank = r;
    auto window = (*backend)->MakeExpertWindow(options);
    Check(window.status());
    exported_[size_t(r)] = (*window)->exported();
    meeting_.arrive_and_wait();
    Check((*window)->Connect(exported_));
    meeting_.arrive_and_wait();
    Measure(**backend, **window, r);
    Check((*window)->status());
    meeting_.arrive_and_wait();
    (*backend)->Synchronize();
    window->reset();
    for (void* p : memory_of(r)) (*backend)->Free(p);
  }

  void Measure(kernels::Backend& backend, kernels::ExpertWindow& window, int r) {
    const int rows = options_.max_rows;
    const int pairs = options_.ranks * rows * kTopk;
    const std::vector<int32_t> host_ids = SomeIds(rows, r);
    const auto allocate = [&](size_t bytes) {
      void* p = backend.Allocate(bytes);
      BALEEN_CHECK_MSG(p != nullptr, "no memory for the rows");
      memory_of(r).push_back(p);
      return p;
    };
    auto* ids = static_cast<int32_t*>(allocate(host_ids.size() * sizeof(int32_t)));
    backend.CopyIn(ids, host_ids.data(), host_ids.size() * sizeof(int32_t));
    auto* x = static_cast<uint8_t*>(allocate(size_t(rows) * kDim));
    auto* scales = static_cast<float*>(allocate(size_t(rows) * kDim / 128 * sizeof(float)));
    void* outputs = allocate(size_t(pairs) * kDim * 2);
    const auto layer = [&] {
      window.Dispatch({.data = nullptr, .rows = rows, .cols = kDim, .stride = kDim},
                      {.data = x, .scales = scales, .rows = rows, .cols = kDim}, ids);
      window.Collect({outputs, DType::kBf16, pairs, kDim, kDim});
    };
    layer();  // each op has run before
    backend.Synchronize();
    const auto step = backend.Record([&] {
      for (int i = 0; i < kLayers; ++i) layer();
    });
    for (int round = -1; round < kRounds; ++round) {  // the first warms up
      meeting_.arrive_and_wait();
      const double begin = Now();
      for (int i = 0; i < kReplays; ++i) step->Replay();
      backend.Synchronize();
      if (r == 0 && round >= 0) seconds_.push_back((Now() - begin) / (kReplays * kLayers));
    }
  }

  std::vector<void*>& memory_of(int r) { return memory_[size_t(r)]; }

  const ExpertWindowOptions options_;
  std::vector<std::string> exported_;
  std::barrier<> meeting_;
  std::vector<double> seconds_;  // rank 0's
  std::vector<std::vector<void*>> memory_ = std::vector<std::vector<void*>>(options_.ranks);
};

int Run(int ranks) {
  std::printf("%d ranks, dim %d, %d of %d experts a row; a graph of %d layers\n\n", ranks, kDim,
              kTopk, kExperts, kLayers);
  std::printf(
      "| rows a rank | peer memory us | NCCL us | ratio | peer memory bytes | NCCL bytes |\n"
      "| --- | --- | --- | --- | --- | --- |\n");
  for (const int rows : {1, 8, 64, 128}) {
    const std::vector<int32_t> ids = SomeIds(rows, 0);
    const double peer = Group(WindowWire::kPeerMemory, ranks, rows).Run();
    const double nccl = Group(WindowWire::kNccl, ranks, rows).Run();
    std::printf("| %d | %.1f | %.1f | %.2f | %.0f | %.0f |\n", rows, peer * 1e6, nccl * 1e6,
                nccl / peer, BytesSent(WindowWire::kPeerMemory, ids, 0, ranks),
                BytesSent(WindowWire::kNccl, ids, 0, ranks));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace baleen

int main(int argc, char** argv) {
  const int ranks = argc == 2 ? std::atoi(argv[1]) : 2;
  if (argc <= 2 && ranks >= 1 && baleen::kExperts % ranks == 0) return baleen::Run(ranks);
  std::fprintf(stderr, "usage: cuda_exchange_bench [RANKS]    RANKS divides %d\n",
               baleen::kExperts);
  return 2;
}
