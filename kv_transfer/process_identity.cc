#include "kv_transfer/process_identity.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace baleen::kv_transfer {
namespace {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Field 22 of /proc/PID/stat; 0 when there is no such process. The name (field 2) may hold spaces
// and parentheses, so count from its last ')'.
uint64_t StartTime(int pid) {
  const std::string stat = FirstLine(absl::StrCat("/proc/", pid, "/stat"));
  const size_t end_of_name = stat.rfind(')');
  if (end_of_name == std::string::npos) return 0;
  std::istringstream fields(stat.substr(end_of_name + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  uint64_t start = 0;
  fields >> start;
  return start;
}

}  // namespace

ProcessIdentity SelfIdentity() {
  ProcessIdentity self;
  self.boot_id = FirstLine("/proc/sys/kernel/random/boot_id");
  struct stat ns = {};
  if (stat("/proc/self/ns/pid", &ns) == 0) self.pid_namespace = ns.st_ino;
  self.pid = getpid();
  self.start_time = StartTime(self.pid);
  return self;
}

ProcessWatch::ProcessWatch(const ProcessIdentity& peer, const ProcessIdentity& self) {
  if (peer.boot_id.empty() || peer.pid_namespace == 0 || peer.start_time == 0) return;
  if (peer.boot_id != self.boot_id || peer.pid_namespace != self.pid_namespace) return;
  pid_fd_ = int(syscall(SYS_pidfd_open, peer.pid, 0));
  // The descriptor is of whoever has the pid now; the start time says whether that is still the
  // peer.
  gone_ = pid_fd_ < 0 ? errno == ESRCH : StartTime(peer.pid) != peer.start_time;
}

ProcessWatch& ProcessWatch::operator=(ProcessWatch&& other) noexcept {
  std::swap(pid_fd_, other.pid_fd_);
  std::swap(gone_, other.gone_);
  return *this;
}

ProcessWatch::~ProcessWatch() {
  if (pid_fd_ >= 0) close(pid_fd_);
}

bool ProcessWatch::Gone() {
  if (gone_ || pid_fd_ < 0) return gone_;
  pollfd p = {.fd = pid_fd_, .events = POLLIN, .revents = 0};
  gone_ = poll(&p, 1, 0) > 0;
  return gone_;
}

}  // namespace baleen::kv_transfer
