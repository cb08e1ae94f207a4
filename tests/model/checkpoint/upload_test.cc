#include "model/checkpoint/upload.h"

#include <algorithm>
#include <vector>

#include "tests/model/staged_backend.h"
#include "tests/testing/status_matchers.h"

namespace baleen::model {
namespace {

using ::baleen::testing::MemoryBackend;
using ::baleen::testing::StagedBackend;
using ::baleen::testing::StatusIs;
using kernels::WeightStorage;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Puts bytes that say where they belong, cut into parts of `sizes` in turn, and returns what is in
// the backend's memory afterwards.
std::vector<std::byte> PutAll(Upload& upload, size_t total, const std::vector<size_t>& sizes) {
  std::vector<std::byte> memory(total);
  for (size_t at = 0, i = 0; at < total; ++i) {
    const size_t bytes = std::min(total - at, sizes[i % sizes.size()]);
    upload.Put(memory.data() + at, bytes, [&](std::byte* room) {
      for (size_t b = 0; b < bytes; ++b) room[b] = static_cast<std::byte>((at + b) % 251);
    });
    at += bytes;
  }
  upload.Finish();
  return memory;
}

void ExpectAll(const std::vector<std::byte>& memory) {
  for (size_t at = 0; at < memory.size(); ++at)
    ASSERT_EQ(memory[at], static_cast<std::byte>(at % 251)) << "at " << at;
}

TEST(Upload, HostMemoryIsWrittenInPlace) {
  MemoryBackend host;
  auto upload = Upload::Create(host);
  BALEEN_ASSERT_OK(upload);
  std::byte place{};
  (*upload)->Put(&place, 1, [&](std::byte* room) { EXPECT_EQ(room, &place); });
}

TEST(Upload, PartsArriveThoughEveryCopyIsLate) {
  StagedBackend device(WeightStorage::kNative);
  auto upload = Upload::Create(device);
  BALEEN_ASSERT_OK(upload);
  ExpectAll(PutAll(**upload, 5 * Upload::kBufferBytes + 12345,
                   {Upload::kPartBytes, 1, 77, Upload::kPartBytes / 3, 4096}));
  EXPECT_EQ(device.most_under_way, Upload::kBuffers);
  EXPECT_EQ(device.synchronizes, 1);
  // One wait for each turn but the first; a part is never waited for by itself.
  EXPECT_GE(device.waits, 4);
  EXPECT_LE(device.waits, 8);
}

TEST(Upload, WhatFitsIntoTwoBuffersWaitsForNoCopy) {
  StagedBackend device(WeightStorage::kNative);
  auto upload = Upload::Create(device);
  BALEEN_ASSERT_OK(upload);
  ExpectAll(PutAll(**upload, 2 * Upload::kBufferBytes, {Upload::kPartBytes}));
  EXPECT_EQ(device.waits, 0);
}

TEST(Upload, SmallPartsShareABuffer) {
  StagedBackend device(WeightStorage::kNative);
  auto upload = Upload::Create(device);
  BALEEN_ASSERT_OK(upload);
  ExpectAll(PutAll(**upload, 100'000, {100}));
  EXPECT_EQ(device.most_under_way, 1);
  EXPECT_EQ(device.waits, 0);
}

TEST(Upload, RoomIsAligned) {
  StagedBackend device(WeightStorage::kNative);
  auto upload = Upload::Create(device);
  BALEEN_ASSERT_OK(upload);
  std::vector<std::byte> memory(3);
  std::byte* first = nullptr;
  (*upload)->Put(memory.data(), 1, [&](std::byte* room) { first = room, *room = {}; });
  (*upload)->Put(memory.data() + 1, 1, [&](std::byte* room) {
    EXPECT_EQ(room, first + 64);
    *room = {};
  });
  (*upload)->Finish();
}

TEST(Upload, TooLittlePinnedMemoryNamesTheBytes) {
  StagedBackend device(WeightStorage::kNative, /*pinned=*/Upload::kBufferBytes);
  EXPECT_THAT(Upload::Create(device),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("67108864 bytes"), HasSubstr("pinned"))));
  EXPECT_EQ(device.buffers_alive(), 0u);
}

}  // namespace
}  // namespace baleen::model
