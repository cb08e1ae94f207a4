#include "worker/wire_pool.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "model/memory_backend.h"
#include "testing/status_matchers.h"

namespace baleen::worker {
namespace {

constexpr size_t kPageBytes = 100;
constexpr int kPages = 5;
using kernels::WeightStorage;

class Device : public ::testing::Test {
 protected:
  Device() { std::iota(pool_.begin(), pool_.end(), uint8_t{1}); }
  std::byte* pool() { return reinterpret_cast<std::byte*>(pool_.data()); }
  uint8_t Wire(const WirePool& wire, int page, size_t at) {
    return static_cast<uint8_t>(wire.base()[page * kPageBytes + at]);
  }

  std::vector<uint8_t> pool_ = std::vector<uint8_t>(kPageBytes * kPages);
  baleen::testing::MemoryBackend device_{WeightStorage::kNative, size_t{1} << 40,
                                         /*host_memory=*/false};
};

TEST_F(Device, HostMemoryIsItsOwnWire) {
  baleen::testing::MemoryBackend host;
  const auto wire = WirePool::Create(host, pool(), kPageBytes, kPages, /*shared=*/false);
  BALEEN_ASSERT_OK(wire);
  EXPECT_EQ((*wire)->base(), pool());
  const std::vector<uint8_t> before = pool_;
  (*wire)->ToWire(std::vector<PageId>{{0}, {4}});
  (*wire)->FromWire(std::vector<PageId>{{1}});
  EXPECT_EQ(pool_, before);
}

TEST_F(Device, ASharedPoolIsItsOwnWire) {
  const auto wire = WirePool::Create(device_, pool(), kPageBytes, kPages, /*shared=*/true);
  BALEEN_ASSERT_OK(wire);
  EXPECT_EQ((*wire)->base(), pool());
}

TEST_F(Device, CopiesThePagesThatAreNamedAndNoOthers) {
  const auto wire = WirePool::Create(device_, pool(), kPageBytes, kPages, /*shared=*/false);
  BALEEN_ASSERT_OK(wire);
  ASSERT_NE((*wire)->base(), pool());
  (*wire)->ToWire(std::vector<PageId>{{3}, {0}});
  for (int page = 0; page < kPages; ++page) {
    for (size_t i = 0; i < kPageBytes; ++i) {
      const bool copied = page == 0 || page == 3;
      ASSERT_EQ(Wire(**wire, page, i), copied ? pool_[page * kPageBytes + i] : 0) << page;
    }
  }
}

// Remembers what it was asked to pin.
class PinningBackend final : public baleen::testing::MemoryBackend {
 public:
  PinningBackend() : MemoryBackend(WeightStorage::kNative, size_t{1} << 40, false) {}
  bool PinHost(void* host, size_t bytes) override {
    slabs.push_back({static_cast<std::byte*>(host), bytes});
    return can_pin;
  }
  void UnpinHost(void* host) override { unpinned.push_back(static_cast<std::byte*>(host)); }

  bool can_pin = true;
  std::vector<std::pair<std::byte*, size_t>> slabs;
  std::vector<std::byte*> unpinned;
};

TEST(Mirror, IsPinnedOnceASlabAsItIsUsed) {
  constexpr size_t kBig = (size_t{3} << 20) + 256;  // a page; 16 are of whole system pages
  constexpr int kMany = 24;                         // two slabs of 16
  std::vector<std::byte> pool(kBig * kMany);
  for (const bool can_pin : {true, false}) {
    PinningBackend device;
    device.can_pin = can_pin;
    auto wire = WirePool::Create(device, pool.data(), kBig, kMany, /*shared=*/false);
    BALEEN_ASSERT_OK(wire);
    std::byte* const base = (*wire)->base();
    (*wire)->ToWire(std::vector<PageId>{{20}, {17}});
    ASSERT_EQ(device.slabs.size(), 1u);
    EXPECT_EQ(device.slabs[0], std::pair(base + 16 * kBig, 8 * kBig));
    (*wire)->FromWire(std::vector<PageId>{{20}, {0}, {15}});
    ASSERT_EQ(device.slabs.size(), 2u);
    EXPECT_EQ(device.slabs[1], std::pair(base, 16 * kBig));
    wire->reset();
    EXPECT_EQ(device.unpinned.size(), can_pin ? 2u : 0u);
  }
}

TEST_F(Device, BringsArrivedPagesIntoThePool) {
  const auto wire = WirePool::Create(device_, pool(), kPageBytes, kPages, /*shared=*/false);
  BALEEN_ASSERT_OK(wire);
  const std::vector<uint8_t> before = pool_;
  for (size_t i = 0; i < kPageBytes * kPages; ++i) (*wire)->base()[i] = std::byte{0xAB};
  (*wire)->FromWire(std::vector<PageId>{{2}});
  for (size_t i = 0; i < pool_.size(); ++i) {
    ASSERT_EQ(pool_[i], i / kPageBytes == 2 ? 0xAB : before[i]) << i;
  }
}

}  // namespace
}  // namespace baleen::worker
