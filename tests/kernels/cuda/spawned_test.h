#pragma once

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/check.h"
#include "kernels/cuda/check.h"

extern char** environ;

namespace baleen::kernels::cuda::testing {

constexpr size_t kBytes = size_t{8} << 20;  // of a Device

// What a Device holds, by seed.
inline std::vector<std::byte> Pattern(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(kBytes);
  for (size_t i = 0; i < kBytes; i += 4) {
    const uint32_t word = random();
    std::memcpy(bytes.data() + i, &word, 4);
  }
  return bytes;
}

// kBytes of the device's memory.
class Device {
 public:
  explicit Device(const std::vector<std::byte>& content) {
    BALEEN_CUDA_CHECK(cudaMalloc(&memory_, kBytes));
    Write(content);
  }
  ~Device() { BALEEN_CUDA_CHECK(cudaFree(memory_)); }
  std::byte* data() const { return static_cast<std::byte*>(memory_); }
  void Write(const std::vector<std::byte>& content) {
    BALEEN_CUDA_CHECK(cudaMemcpy(memory_, content.data(), kBytes, cudaMemcpyHostToDevice));
  }
  std::vector<std::byte> Read() const {
    std::vector<std::byte> bytes(kBytes);
    BALEEN_CUDA_CHECK(cudaMemcpy(bytes.data(), memory_, kBytes, cudaMemcpyDeviceToHost));
    return bytes;
  }

 private:
  void* memory_ = nullptr;
};

// Another process: this program again, running only the (disabled) test of that name, which talks
// to this one by Tell and Hear.
class SpawnedTest {
 public:
  explicit SpawnedTest(const std::string& test) {
    int up[2], down[2];
    BALEEN_CHECK(pipe2(up, O_CLOEXEC) == 0 && pipe2(down, O_CLOEXEC) == 0);
    const int to_parent = Above(up[1]), from_parent = Above(down[0]);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, to_parent, kToParent);
    posix_spawn_file_actions_adddup2(&files, from_parent, kFromParent);
    std::string self = "/proc/self/exe", filter = "--gtest_filter=" + test,
                disabled = "--gtest_also_run_disabled_tests";
    char* argv[] = {self.data(), filter.data(), disabled.data(), nullptr};
    BALEEN_CHECK(posix_spawn(&pid_, "/proc/self/exe", &files, nullptr, argv, environ) == 0);
    posix_spawn_file_actions_destroy(&files);
    close(to_parent), close(from_parent);
    up_ = up[0], down_ = down[1];
  }
  SpawnedTest(const SpawnedTest&) = delete;
  SpawnedTest& operator=(const SpawnedTest&) = delete;
  ~SpawnedTest() {
    Kill();
    close(up_), close(down_);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

  void Send(const std::string& message) { Write(down_, message); }
  std::string Receive() { return Read(up_); }  // empty: the process failed

  // The same, in that process.
  static void Tell(const std::string& message) { Write(kToParent, message); }
  static std::string Hear() { return Read(kFromParent); }

 private:
  static constexpr int kToParent = 4, kFromParent = 5;  // descriptors there

  // The same pipe under a number that is none of those.
  static int Above(int fd) {
    const int above = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    BALEEN_CHECK(above >= 0);
    close(fd);
    return above;
  }
  static void Write(int fd, const std::string& message) {
    const uint32_t size = uint32_t(message.size());
    BALEEN_CHECK(write(fd, &size, sizeof(size)) == sizeof(size));
    BALEEN_CHECK(write(fd, message.data(), size) == ssize_t(size));
  }
  static std::string Read(int fd) {
    uint32_t size = 0;
    if (read(fd, &size, sizeof(size)) != sizeof(size)) return "";
    std::string message(size, 0);
    for (size_t at = 0; at < size;) {
      const ssize_t n = read(fd, message.data() + at, size - at);
      if (n <= 0) return "";
      at += size_t(n);
    }
    return message;
  }

  pid_t pid_ = 0;
  int up_ = -1, down_ = -1;
};

}  // namespace baleen::kernels::cuda::testing
