#include "common/run_server.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "proto/config.pb.h"
#include "testing/status_matchers.h"

namespace baleen {
namespace {

using ::testing::HasSubstr;

std::string WriteFile(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/run_server_test.textproto";
  std::ofstream(path) << text;
  return path;
}

TEST(ReadTextProto, ReadsAConfiguration) {
  v1::RouterConfig config;
  BALEEN_EXPECT_OK(ReadTextProto(WriteFile("model: 'm' http_port: 0"), &config));
  EXPECT_EQ(config.model(), "m");
  EXPECT_TRUE(config.has_http_port());
}

TEST(ReadTextProto, NamesTheLineAndTheUnknownField) {
  v1::RouterConfig config;
  EXPECT_THAT(ReadTextProto(WriteFile("model: 'm'\nmodle: 'x'"), &config),
              testing::StatusIs(absl::StatusCode::kInvalidArgument,
                                ::testing::AllOf(HasSubstr(":2:"), HasSubstr("modle"))));
}

TEST(ReadTextProto, NamesAFileThatIsNotThere) {
  v1::RouterConfig config;
  EXPECT_THAT(ReadTextProto("/nonexistent.textproto", &config),
              testing::StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent.textproto")));
}

TEST(ShutdownSignal, ASignalMeansOk) {
  ShutdownSignal shutdown;
  kill(getpid(), SIGTERM);
  BALEEN_EXPECT_OK(shutdown.Wait());
}

TEST(ShutdownSignal, KeepsTheFirstError) {
  ShutdownSignal shutdown;
  std::jthread other([&] {
    shutdown.Request(absl::UnavailableError("rank 1 vanished"));
    shutdown.Request(absl::InternalError("later"));
  });
  EXPECT_THAT(shutdown.Wait(),
              testing::StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1")));
}

// Gets SIGTERM as soon as it runs.
class TerminatedServer {
 public:
  static absl::StatusOr<std::unique_ptr<TerminatedServer>> Create(const v1::RouterConfig& config,
                                                                  ShutdownSignal& shutdown) {
    kill(getpid(), SIGTERM);
    return std::make_unique<TerminatedServer>(config.model(), shutdown);
  }
  TerminatedServer(std::string model, ShutdownSignal& shutdown)
      : model_(std::move(model)), shutdown_(shutdown) {}
  void Drain() {
    if (model_ == "breaks") shutdown_.Request(absl::UnavailableError("rank 1 vanished"));
  }

 private:
  const std::string model_;
  ShutdownSignal& shutdown_;
};

TEST(RunServer, ADrainInGoodOrderIsOk) {
  BALEEN_EXPECT_OK((RunServer<TerminatedServer, v1::RouterConfig>(WriteFile("model: 'm'"))));
}

TEST(RunServer, WhatBreaksWhileItDrainsIsItsError) {
  EXPECT_THAT((RunServer<TerminatedServer, v1::RouterConfig>(WriteFile("model: 'breaks'"))),
              testing::StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1")));
}

}  // namespace
}  // namespace baleen
