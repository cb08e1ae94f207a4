#include "common/run_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mutex.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"

namespace baleen {
namespace {

class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat(line + 1, ":", column + 1, ": ", message);
  }
  void AddWarning(int, int, const std::string&) override {}
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

absl::Status ReadTextProto(const std::string& path, google::protobuf::Message* config) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot open the configuration file"));
  std::ostringstream text;
  text << in.rdbuf();
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text.str(), config))
    return absl::InvalidArgumentError(absl::StrCat(path, ":", error.text()));
  return absl::OkStatus();
}

struct ShutdownSignal::State {
  Mutex mu;
  absl::Status first ABSL_GUARDED_BY(mu);
};

ShutdownSignal::ShutdownSignal() : state_(std::make_unique<State>()) {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  event_fd_ = eventfd(0, EFD_CLOEXEC);
  BALEEN_CHECK(signal_fd_ >= 0 && event_fd_ >= 0);
}

ShutdownSignal::~ShutdownSignal() {
  close(signal_fd_);
  close(event_fd_);
}

void ShutdownSignal::Request(absl::Status why) {
  {
    MutexLock lock(state_->mu);
    if (state_->first.ok()) state_->first = std::move(why);
  }
  eventfd_write(event_fd_, 1);
}

absl::Status ShutdownSignal::Wait() {
  pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {event_fd_, POLLIN, 0}};
  while (poll(fds, 2, -1) < 0) {
  }
  signalfd_siginfo signal;
  if (fds[0].revents != 0 && read(signal_fd_, &signal, sizeof(signal)) == sizeof(signal))
    spdlog::info("signal {} received, draining", signal.ssi_signo);
  return status();
}

absl::Status ShutdownSignal::status() const {
  MutexLock lock(state_->mu);
  return state_->first;
}

namespace internal {

void LogEffectiveConfig(const google::protobuf::Message& config) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(config, &text);
  spdlog::info("config: {}", text);
}

}  // namespace internal
}  // namespace baleen
