#include "worker/directory_client.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "proto/worker.grpc.pb.h"
#include "testing/event_log.h"

namespace baleen::worker {
namespace {

using baleen::testing::EventLog;

// A router that accepts every group but the first `refuse`, asks it to drain and notes what it
// reports.
class RecordingDirectory final : public v1::Directory::Service {
 public:
  grpc::Status Register(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::RouterCommand, v1::WorkerReport>* stream) override {
    v1::WorkerReport report;
    while (stream->Read(&report)) {
      if (report.has_registration()) {
        log.Add(absl::StrCat("registered ", report.registration().group(), " ",
                             report.registration().members_size()));
        v1::RouterCommand command;
        if (refuse-- > 0) {
          command.mutable_rejected()->set_reason("drafts: 1 here, 3 there");
          stream->Write(command);
          return grpc::Status::OK;
        }
        command.mutable_accepted();
        stream->Write(command);
        command.mutable_drain();
        stream->Write(command);
        command.mutable_flush_cache()->set_number(41);
        stream->Write(command);
        command.mutable_flush_cache()->set_number(42);
        stream->Write(command);
      }
      if (report.has_load()) {
        log.Add(absl::StrCat("flushed ", report.load().flushed()));
        log.Add(absl::StrCat("state ", report.load().state(), " running ",
                             report.load().members(0).running()));
      }
    }
    return grpc::Status::OK;
  }
  std::atomic<int> refuse{0};
  EventLog log;
};

std::unique_ptr<grpc::Server> Serve(RecordingDirectory& directory, int* port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", *port), grpc::InsecureServerCredentials(),
                           port);
  builder.RegisterService(&directory);
  return builder.BuildAndStart();
}

class DirectoryClientTest : public ::testing::Test {
 protected:
  std::unique_ptr<DirectoryClient> Client(int port) {
    return DirectoryClient::Create(
        {absl::StrCat("127.0.0.1:", port)},
        {.group = "decode-0", .incarnation = {5}, .members = {{.index = 0}, {.index = 1}}},
        {.loads = [] { return std::vector<Load>{{.running = 3}}; },
         .drain = [this] { log_.Add("drain"); },
         .undrain = [] {},
         .flush_cache =
             [this] {
               log_.Add("flush");
               return ++flushes_;
             },
         .flushed = [this] { return flushed_.load(); }});
  }
  EventLog log_;
  std::atomic<uint64_t> flushes_{0}, flushed_{0};
};

TEST_F(DirectoryClientTest, RegistersReportsAndObeys) {
  RecordingDirectory directory;
  int port = 0;
  auto server = Serve(directory, &port);
  auto client = Client(port);
  EXPECT_TRUE(directory.log.WaitFor("registered decode-0 2"));
  EXPECT_TRUE(log_.WaitFor("drain"));
  client->SetState(State::kReady);
  EXPECT_TRUE(directory.log.WaitFor(absl::StrCat("state ", v1::READY, " running 3")));
  client.reset();
  server->Shutdown();
}

TEST_F(DirectoryClientTest, AcknowledgesAFlushOnceItIsDone) {
  RecordingDirectory directory;
  int port = 0;
  auto server = Serve(directory, &port);
  auto client = Client(port);
  ASSERT_TRUE(log_.WaitFor("flush", 2));
  ASSERT_TRUE(directory.log.WaitFor("flushed 0", 3));  // reports, but nothing done
  flushed_ = 1;
  EXPECT_TRUE(directory.log.WaitFor("flushed 41"));
  flushed_ = 2;
  EXPECT_TRUE(directory.log.WaitFor("flushed 42"));
  client.reset();
  server->Shutdown();
}

TEST_F(DirectoryClientTest, RegistersAgainWhenTheRouterRestarts) {
  RecordingDirectory directory;
  int port = 0;
  auto server = Serve(directory, &port);
  auto client = Client(port);
  ASSERT_TRUE(directory.log.WaitFor("registered decode-0 2"));
  server->Shutdown(std::chrono::system_clock::now());
  server.reset();
  server = Serve(directory, &port);
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(directory.log.WaitFor("registered decode-0 2", 2));
  client.reset();
  server->Shutdown();
}

TEST_F(DirectoryClientTest, ARefusedGroupAsksAgainButNotAtOnce) {
  RecordingDirectory directory;
  directory.refuse = 1;
  int port = 0;
  auto server = Serve(directory, &port);
  const TimePoint start = SteadyClock().Now();
  auto client = Client(port);
  ASSERT_TRUE(directory.log.WaitFor("registered decode-0 2", 2));
  EXPECT_GE(SteadyClock().Now() - start, std::chrono::seconds(1));
  EXPECT_TRUE(log_.WaitFor("drain"));
  client.reset();
  server->Shutdown();
}

}  // namespace
}  // namespace baleen::worker
