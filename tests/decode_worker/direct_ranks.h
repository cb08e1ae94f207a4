#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "decode_worker/rank_mesh.h"

namespace baleen::testing {

// The meshes of `size` ranks in one process, joined by copies instead of a transport.
class DirectRanks {
 public:
  using RankMesh = decode_worker::RankMesh;

  explicit DirectRanks(int size, Duration deadline = std::chrono::seconds(20))
      : pool_(kv_transfer::BufferPool::Create(1 << 20)), failures_(size_t(size)) {
    for (int rank = 0; rank < size; ++rank)
      meshes_.push_back(std::make_unique<RankMesh>(
          RankMesh::Options{
              .rank = rank,
              .size = size,
              .deadline = deadline,
              .broken = [this, rank](const absl::Status& why) { failures_[size_t(rank)] = why; }},
          [this, rank](std::span<const RankMesh::Envelope> envelopes, int parity) {
            for (const auto& e : envelopes) Carry(rank, e, parity);
          }));
  }

  RankMesh& mesh(int rank) { return *meshes_[size_t(rank)]; }
  int size() const { return int(meshes_.size()); }
  const absl::Status& failure(int rank) const { return failures_[size_t(rank)]; }

  // Runs `body(rank)` on a thread for each rank and joins them.
  void Run(const std::function<void(int rank)>& body) {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size(); ++rank) threads.emplace_back([&body, rank] { body(rank); });
  }

 private:
  void Carry(int from, const RankMesh::Envelope& e, int parity) {
    size_t bytes = 0;
    for (const auto& piece : e.payload) bytes += piece.size();
    kv_transfer::Buffer buffer = pool_->Get(bytes);
    std::byte* at = buffer.data();
    for (const auto& piece : e.payload) {
      if (!piece.empty()) std::memcpy(at, piece.data(), piece.size());
      at += piece.size();
    }
    mesh(e.peer).Deliver(from, e.header, std::move(buffer));
    mesh(from).SendDone(parity, absl::OkStatus());
  }

  std::shared_ptr<kv_transfer::BufferPool> pool_;
  std::vector<absl::Status> failures_;  // each written by one `broken`, read after Run
  std::vector<std::unique_ptr<RankMesh>> meshes_;
};

}  // namespace baleen::testing
