#include "kernels/cuda/peer_memory.h"

#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/cuda/peer_copy.h"
#include "testing/status_matchers.h"
#include "tests/kernels/cuda/spawned_test.h"

namespace baleen::kernels::cuda {
namespace {

using ::baleen::testing::StatusIs;
using testing::Device;
using ::testing::HasSubstr;
using testing::kBytes;
using testing::Pattern;
using testing::SpawnedTest;

constexpr size_t kSharedFrom = 4096 + 16;  // what the child exports begins inside its allocation
constexpr size_t kShared = kBytes - kSharedFrom;

std::vector<std::byte> SharedPattern() {
  const std::vector<std::byte> all = Pattern(1);
  return {all.begin() + kSharedFrom, all.end()};
}

// Another process with Pattern(1) on the device, which exports the last kShared bytes of it.
struct Peer : SpawnedTest {
  Peer()
      : SpawnedTest("PeerProcess.DISABLED_SharesItsMemoryUntilItIsKilled"), exported(Receive()) {}

  const std::string exported;  // empty: the process failed
};

void WaitFor(PeerMemory& memory, uint64_t copy) {
  while (memory.Finished() < copy) usleep(50);
}

// Carries out on the host what the device should have done.
void Expect(const Device& device, std::vector<std::byte> before,
            const std::vector<std::byte>& source, const std::vector<PeerMemory::Piece>& pieces,
            const std::byte* from) {
  for (const auto& piece : pieces)
    std::memcpy(before.data() + (piece.to - device.data()), source.data() + (piece.from - from),
                piece.bytes);
  const std::vector<std::byte> got = device.Read();
  for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(got[i], before[i]) << "byte " << i;
}

// Pieces of all sizes and alignments, more than one launch takes, which do not overlap.
std::vector<PeerMemory::Piece> SomePieces(std::byte* to, const std::byte* from) {
  std::vector<PeerMemory::Piece> pieces;
  size_t at = 0;
  for (size_t i = 0; i < 300; ++i) {
    const size_t bytes = i % 7 == 0 ? 16 * i : i % 5 == 0 ? 40'000 + i : i;
    const size_t shift = i % 3 == 0 ? 0 : i % 17;
    if (bytes > 0) pieces.push_back({to + at + shift, from + at + i % 2 * shift, bytes});
    at += (bytes + 64) / 16 * 16;
  }
  EXPECT_LT(at, kBytes);
  return pieces;
}

TEST(PeerMemoryTest, FetchesFromAnotherProcess) {
  Peer peer;
  ASSERT_FALSE(peer.exported.empty());
  const auto memory = MakeCudaPeerMemory(0);
  const auto mapping = memory->Import(peer.exported);
  BALEEN_ASSERT_OK(mapping);
  EXPECT_EQ((*mapping)->bytes, kShared);
  Device device(Pattern(2));
  const auto pieces = SomePieces(device.data(), (*mapping)->base);
  EXPECT_EQ(memory->Copy(pieces), 1u);
  const PeerMemory::Piece last = {device.data() + kBytes - 1, (*mapping)->base + kShared - 1, 1};
  EXPECT_EQ(memory->Copy({&last, 1}), 2u);
  WaitFor(*memory, 2);
  auto all = pieces;
  all.push_back(last);
  Expect(device, Pattern(2), SharedPattern(), all, (*mapping)->base);
}

// The same memory may be mapped twice, as two links to one process do.
TEST(PeerMemoryTest, AMappingOutlivesAnotherOfTheSameMemory) {
  Peer peer;
  const auto memory = MakeCudaPeerMemory(0);
  auto first = memory->Import(peer.exported);
  BALEEN_ASSERT_OK(first);
  const auto second = memory->Import(peer.exported);
  BALEEN_ASSERT_OK(second);
  first->reset();
  Device device(Pattern(2));
  const std::vector<PeerMemory::Piece> all = {{device.data(), (*second)->base, kShared}};
  WaitFor(*memory, memory->Copy(all));
  Expect(device, Pattern(2), SharedPattern(), all, (*second)->base);
}

TEST(PeerMemoryTest, RefusesWhatIsNotThere) {
  const auto memory = MakeCudaPeerMemory(0);
  EXPECT_THAT(memory->Import("short"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a handle")));
  Peer peer;
  ASSERT_FALSE(peer.exported.empty());
  peer.Kill();
  EXPECT_THAT(memory->Import(peer.exported),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("memory")));
  std::vector<std::byte> host(kBytes);
  EXPECT_THAT(memory->Export(host.data(), kBytes),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("memory")));
  Device device(Pattern(2));  // the device is as good as before
  EXPECT_EQ(device.Read(), Pattern(2));
}

// A copy of no pieces ends too.
TEST(PeerMemoryTest, NothingIsSoonOver) {
  const auto memory = MakeCudaPeerMemory(0);
  EXPECT_EQ(memory->Finished(), 0u);
  WaitFor(*memory, memory->Copy({}));
}

TEST(PeerProcess, DISABLED_SharesItsMemoryUntilItIsKilled) {
  Device device(Pattern(1));
  const auto memory = MakeCudaPeerMemory(0);
  const auto exported = memory->Export(device.data() + kSharedFrom, kShared);
  BALEEN_ASSERT_OK(exported);
  SpawnedTest::Tell(*exported);
  SpawnedTest::Hear();  // nothing: the other process ends first
}

}  // namespace
}  // namespace baleen::kernels::cuda
