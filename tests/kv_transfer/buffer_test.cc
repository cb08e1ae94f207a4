#include "kv_transfer/buffer.h"

#include <cstdint>
#include <cstring>

#include "gtest/gtest.h"

namespace baleen::kv_transfer {
namespace {

TEST(BufferPool, GivesTheSameMemoryAgain) {
  const auto pool = BufferPool::Create(1 << 20);
  std::byte* first = nullptr;
  {
    const Buffer buffer = pool->Get(1000);
    first = buffer.data();
    EXPECT_EQ(buffer.size(), 1000u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    std::memset(buffer.data(), 1, buffer.size());
  }
  EXPECT_EQ(pool->idle_bytes(), 1024u);
  EXPECT_EQ(pool->Get(600).data(), first) << "of the same power of two";
}

TEST(BufferPool, KeepsNoMoreThanItMay) {
  const auto pool = BufferPool::Create(4096);
  { Buffer a = pool->Get(4096), b = pool->Get(4096); }
  EXPECT_EQ(pool->idle_bytes(), 4096u);
}

TEST(Buffer, MovesAndOutlivesItsPool) {
  Buffer kept;
  {
    const auto pool = BufferPool::Create(1 << 20);
    Buffer buffer = pool->Get(10);
    kept = std::move(buffer);
    EXPECT_EQ(buffer.data(), nullptr);  // NOLINT(bugprone-use-after-move)
  }
  std::memset(kept.data(), 7, kept.size());
  EXPECT_EQ(kept.span()[9], std::byte{7});
  kept = Buffer();
  EXPECT_EQ(kept.size(), 0u);
}

TEST(Buffer, OfNoBytesIsEmpty) {
  const auto pool = BufferPool::Create(1 << 20);
  EXPECT_EQ(pool->Get(0).data(), nullptr);
}

}  // namespace
}  // namespace baleen::kv_transfer
