#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/metrics.h"
#include "decode_worker/rank_links.h"
#include "testing/loopback_transport.h"

namespace baleen::testing {

// The ranks of a decode group in one process, each with its own transport thread on a LoopbackHub,
// links and mesh: everything that a real rank has below the model.
class LoopbackRanks {
 public:
  struct Rank {
    Metrics metrics;
    absl::Status broken;  // written once; read after the threads are joined
    std::unique_ptr<decode_worker::RankMesh> mesh;
    std::unique_ptr<kv_transfer::Transport> transport;
    std::unique_ptr<kv_transfer::LinkTable> links;
    std::unique_ptr<decode_worker::RankLinks> rank_links;
  };

  using PoolOf = std::function<kv_transfer::PagePoolView(int rank)>;

  explicit LoopbackRanks(int size, Duration deadline = std::chrono::seconds(20),
                         const PoolOf& pool = nullptr) {
    for (int r = 0; r < size; ++r)
      Add(r, size, deadline, pool ? pool(r) : kv_transfer::PagePoolView{});
    for (auto& rank : ranks_) addresses_.push_back(rank->links->Self());
  }
  ~LoopbackRanks() {
    for (auto& rank : ranks_) rank->rank_links->Finish();
  }

  Rank& rank(int r) { return *ranks_[size_t(r)]; }
  int size() const { return int(ranks_.size()); }
  kv_transfer::LoopbackHub& hub() { return hub_; }
  static std::string Name(int r) { return "decode/" + std::to_string(r); }

  absl::Status Connect(int r) {
    return rank(r).rank_links->Connect(*rank(r).mesh, addresses_, std::chrono::seconds(20));
  }
  // Runs `body(rank)` on a thread for each rank and joins them.
  void Run(const std::function<void(int rank)>& body) {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size(); ++r) threads.emplace_back([&body, r] { body(r); });
  }

 private:
  void Add(int r, int size, Duration deadline, const kv_transfer::PagePoolView& pool) {
    auto owned = std::make_unique<Rank>();
    Rank* rank = owned.get();
    rank->mesh = std::make_unique<decode_worker::RankMesh>(
        decode_worker::RankMesh::Options{
            .rank = r,
            .size = size,
            .deadline = deadline,
            .broken = [rank](const absl::Status& why) { rank->broken = why; }},
        [rank](auto envelopes, int parity) { rank->rank_links->Post(envelopes, parity); });
    rank->transport = hub_.Create(Name(r));
    auto links = kv_transfer::LinkTable::Create(*rank->transport,
                                                {.name = Name(r),
                                                 .incarnation = {uint64_t(100 + r)},
                                                 .pool = pool,
                                                 .peers_write_pool = pool.pages > 0},
                                                rank->metrics);
    BALEEN_CHECK(links.ok());
    rank->links = *std::move(links);
    rank->rank_links = decode_worker::RankLinks::Create(*rank->links, rank->metrics);
    ranks_.push_back(std::move(owned));
  }

  kv_transfer::LoopbackHub hub_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<kv_transfer::PeerAddress> addresses_;
};

}  // namespace baleen::testing
