#include "kv_transfer/probe_scratch.h"

#include <cstring>
#include <utility>

#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {

ProbeScratch::~ProbeScratch() {
  for (const auto& slot : slots_) transport_.DeregisterRegion(slot->region);
}

ProbeScratch::Slot* ProbeScratch::Acquire() {
  if (bytes_ == 0) return nullptr;
  if (!free_.empty()) {
    Slot* slot = free_.back();
    free_.pop_back();
    return slot;
  }
  auto slot = std::make_unique<Slot>();
  slot->memory = std::make_unique<std::byte[]>(bytes_);
  const auto region = transport_.RegisterRegion(MemoryKind::kHost, slot->memory.get(), bytes_);
  auto key = region.ok() ? transport_.PackRemoteKey(*region) : region.status();
  if (!key.ok()) {
    spdlog::warn("no probe of links: {}", key.status().ToString());
    return nullptr;
  }
  slot->region = *region;
  slot->key = *std::move(key);
  slots_.push_back(std::move(slot));
  return slots_.back().get();
}

void ProbeScratch::Release(Slot* slot) {
  if (slot != nullptr) free_.push_back(slot);
}

void ProbeScratch::Fill(std::span<std::byte> bytes, uint64_t seed) {
  uint64_t x = seed | 1;
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;  // xorshift64
    std::memcpy(bytes.data() + i, &x, 8);
  }
}

uint64_t ProbeScratch::Hash(std::span<const std::byte> bytes) {
  uint64_t hash = bytes.size();
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace baleen::kv_transfer
