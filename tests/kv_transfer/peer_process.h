#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "kv_transfer/link_table.h"

namespace baleen::kv_transfer::testing {

// A transfer_peer, started and stopped by the test.
class PeerProcess {
 public:
  PeerProcess(const std::string& name, const std::string& transports, int pages, size_t page_bytes,
              const std::string& fingerprint = "tiny") {
    const std::vector<std::string> args = {BALEEN_BINARY_DIR "/bin/transfer_peer",
                                           name,
                                           transports,
                                           std::to_string(pages),
                                           std::to_string(page_bytes),
                                           fingerprint};
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC) + pipe2(out, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      std::vector<char*> argv;
      for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = in[1];
    from_ = out[0];
    const std::vector<std::string> address = absl::StrSplit(Expect("address "), ' ');
    if (address.size() == 3)
      address_ = {.name = name,
                  .transport_address = absl::HexStringToBytes(address[1]),
                  .incarnation = Incarnation{std::stoull(address[2])}};
  }
  ~PeerProcess() {
    close(to_);
    if (pid_ > 0) Kill(SIGKILL), Wait();
    close(from_);
  }

  const PeerAddress& address() const { return address_; }
  pid_t pid() const { return pid_; }
  void Tell(const std::string& line) {
    const std::string text = line + "\n";
    EXPECT_EQ(write(to_, text.data(), text.size()), ssize_t(text.size()));
  }
  // The next line that begins with `prefix`; fails the test after `limit`.
  std::string Expect(const std::string& prefix,
                     std::chrono::seconds limit = std::chrono::seconds(20)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (true) {
      for (size_t end; (end = text_.find('\n')) != std::string::npos;) {
        const std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        if (line.rfind(prefix, 0) == 0) return line;
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd p = {.fd = from_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (left.count() <= 0 || poll(&p, 1, int(left.count())) <= 0) break;
      const ssize_t n = read(from_, buffer, sizeof(buffer));
      if (n <= 0) break;
      text_.append(buffer, size_t(n));
    }
    ADD_FAILURE() << "the peer did not say \"" << prefix << "\"";
    return "";
  }
  void Kill(int signal) { kill(pid_, signal); }
  // Closes its stdin, so that it ends by itself.
  void Quit() {
    close(to_);
    to_ = -1;
    Wait();
  }

 private:
  void Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
  }

  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
  std::string text_;
  PeerAddress address_;
};

}  // namespace baleen::kv_transfer::testing
