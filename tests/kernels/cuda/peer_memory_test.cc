// The other process is this program again, running only the disabled test at the end.
#include "kernels/cuda/peer_memory.h"

#include <cuda_runtime_api.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/peer_copy.h"
#include "testing/status_matchers.h"

extern char** environ;

namespace baleen::kernels::cuda {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

constexpr size_t kBytes = size_t{8} << 20;
constexpr size_t kSharedFrom = 4096 + 16;  // what the child exports begins inside its allocation
constexpr size_t kShared = kBytes - kSharedFrom;
constexpr int kToParent = 4, kFromParent = 5;  // descriptors in the child

// The child's memory, and ours before copies.
std::vector<std::byte> Pattern(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(kBytes);
  for (size_t i = 0; i < kBytes; i += 4) {
    const uint32_t word = random();
    std::memcpy(bytes.data() + i, &word, 4);
  }
  return bytes;
}

class Device {
 public:
  explicit Device(const std::vector<std::byte>& content) {
    BALEEN_CUDA_CHECK(cudaMalloc(&memory_, kBytes));
    BALEEN_CUDA_CHECK(cudaMemcpy(memory_, content.data(), kBytes, cudaMemcpyHostToDevice));
  }
  ~Device() { BALEEN_CUDA_CHECK(cudaFree(memory_)); }
  std::byte* data() const { return static_cast<std::byte*>(memory_); }
  std::vector<std::byte> Read() const {
    std::vector<std::byte> bytes(kBytes);
    BALEEN_CUDA_CHECK(cudaMemcpy(bytes.data(), memory_, kBytes, cudaMemcpyDeviceToHost));
    return bytes;
  }

 private:
  void* memory_ = nullptr;
};

std::vector<std::byte> SharedPattern() {
  const std::vector<std::byte> all = Pattern(1);
  return {all.begin() + kSharedFrom, all.end()};
}

// Another process with Pattern(1) on the device, which exports the last kShared bytes of it.
class Peer {
 public:
  Peer() {
    int up[2], down[2];
    BALEEN_CHECK(pipe(up) == 0 && pipe(down) == 0);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, up[1], kToParent + 10);
    posix_spawn_file_actions_adddup2(&files, down[0], kFromParent + 10);
    posix_spawn_file_actions_adddup2(&files, kToParent + 10, kToParent);
    posix_spawn_file_actions_adddup2(&files, kFromParent + 10, kFromParent);
    std::string self = "/proc/self/exe", filter = "--gtest_filter=PeerProcess.*",
                disabled = "--gtest_also_run_disabled_tests";
    char* argv[] = {self.data(), filter.data(), disabled.data(), nullptr};
    BALEEN_CHECK(posix_spawn(&pid_, "/proc/self/exe", &files, nullptr, argv, environ) == 0);
    posix_spawn_file_actions_destroy(&files);
    close(up[1]), close(down[0]);
    down_ = down[1];
    char size = 0;
    if (read(up[0], &size, 1) == 1) {
      exported.resize(size_t(size));
      BALEEN_CHECK(read(up[0], exported.data(), exported.size()) == size);
    }
    close(up[0]);
  }
  ~Peer() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(down_);
    pid_ = 0;
  }

  std::string exported;  // empty: the process failed

 private:
  pid_t pid_ = 0;
  int down_ = -1;
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
  const std::string message = char(exported->size()) + *exported;
  ASSERT_EQ(write(kToParent, message.data(), message.size()), ssize_t(message.size()));
  char nothing = 0;
  [[maybe_unused]] const ssize_t end = read(kFromParent, &nothing, 1);
}

}  // namespace
}  // namespace baleen::kernels::cuda
