#include "tools/cluster_commands.h"

#include "gmock/gmock.h"
#include "testing/status_matchers.h"
#include "tools/fake_router.h"
#include "tools/http_client.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::FakeRouter;

using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kWorkers[] = R"({"workers":[
  {"group":"prefill-0","role":"prefill","state":"ready","members":[
    {"index":0,"pid":11,"free_pages":90,"total_pages":100,"running":1,"transports":""},
    {"index":1,"pid":12,"free_pages":7,"total_pages":100,"running":1,"transports":"shm"}]},
  {"group":"d","role":"decode","state":"draining","members":[{"index":0,"accept_length":1.849}]}]})";

struct Outcome {
  template <typename Command>
  Outcome(Command command, std::vector<std::string> args) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    status = command(args);
    out = ::testing::internal::GetCapturedStdout();
    err = ::testing::internal::GetCapturedStderr();
  }
  int status;
  std::string out, err;
};

TEST(WorkersTable, HasALinePerProcess) {
  const auto table = WorkersTable(kWorkers);
  BALEEN_ASSERT_OK(table);
  EXPECT_EQ(*table,
            "GROUP      ROLE     STATE     INDEX  PID  FREE  PAGES  QUARANTINE  RUNNING  WAITING  "
            "ACCEPT  TRANSPORTS\n"
            "prefill-0  prefill  ready     0      11   90    100    -           1        -        "
            "-       -\n"
            "prefill-0  prefill  ready     1      12   7     100    -           1        -        "
            "-       shm\n"
            "d          decode   draining  0      -    -     -      -           -        -        "
            "1.85    -\n");
}

TEST(WorkersTable, RefusesWhatIsNoListOfWorkers) {
  for (const char* bad : {"", "[]", "{}", R"({"workers":3})", "<html>"})
    EXPECT_THAT(WorkersTable(bad), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_))
        << bad;
}

TEST(ClusterCommands, StatusCountsGroups) {
  FakeRouter router({FakeRouter::Reply(503, R"({"error":{"message":"draining"}})"),
                     FakeRouter::Reply(200, R"({"data":[{"id":"tiny","max_model_len":16384}]})"),
                     FakeRouter::Reply(200, kWorkers)});
  const Outcome run(RunStatus, {"--url", router.url()});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out,
            "not ready: HTTP 503: draining\nmodel tiny, context 16384 tokens\n"
            "1 decode group(s) draining\n1 prefill group(s) ready\n");
}

TEST(ClusterCommands, DrainAndUndrainNameTheGroup) {
  FakeRouter router({FakeRouter::Reply(200, R"({"groups":1})"),
                     FakeRouter::Reply(200, R"({"groups":1})"),
                     FakeRouter::Reply(404, R"({"error":{"message":"no group \"x\""}})")});
  EXPECT_EQ(Outcome(RunDrain, {"prefill-0", "--url", router.url()}).out, "prefill-0 drains\n");
  EXPECT_EQ(Outcome(RunUndrain, {"--url", router.url(), "prefill-0"}).status, 0);
  const Outcome missing(RunDrain, {"x", "--url", router.url()});
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(missing.err, "baleenctl drain: HTTP 404: no group \"x\"\n");
  EXPECT_THAT(router.requests(),
              ElementsAre("POST /workers/prefill-0/drain {}", "POST /workers/prefill-0/undrain {}",
                          "POST /workers/x/drain {}"));
}

TEST(ClusterCommands, FlushSaysWhenItFailed) {
  FakeRouter router({FakeRouter::Reply(200, "{}"), FakeRouter::Reply(500, "no JSON")});
  EXPECT_EQ(Outcome(RunFlush, {"--url", router.url()}).status, 0);
  const Outcome failed(RunFlush, {"--url", router.url()});
  EXPECT_EQ(failed.status, 1);
  EXPECT_EQ(failed.err, "baleenctl flush: HTTP 500: no JSON\n");
}

TEST(ClusterCommands, ProfileSaysThatItIsNotThere) {
  FakeRouter router({FakeRouter::Reply(501, R"({"error":{"message":"not offered"}})")});
  const Outcome run(RunProfile, {"--url", router.url()});
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.err, HasSubstr("does not offer profiling yet"));
}

TEST(ClusterCommands, ProfileStartsAndStops) {
  FakeRouter router({FakeRouter::Reply(200, "{}"), FakeRouter::Reply(200, "{}")});
  EXPECT_EQ(Outcome(RunProfile, {"--url", router.url(), "--seconds", "1"}).status, 0);
  EXPECT_THAT(router.requests(),
              ElementsAre(StartsWith("POST /start_profile"), StartsWith("POST /stop_profile")));
}

TEST(ClusterCommands, WrongArgumentsAreRefused) {
  EXPECT_EQ(Outcome(RunDrain, {}).status, 2);
  EXPECT_EQ(Outcome(RunDrain, {"a", "b"}).status, 2);
  EXPECT_EQ(Outcome(RunStatus, {"x"}).status, 2);
  EXPECT_EQ(Outcome(RunWorkers, {"--url"}).status, 2);
  EXPECT_EQ(Outcome(RunWorkers, {"--url", "ftp://x"}).status, 2);
  // Refused before anybody is asked: it would become part of a path.
  EXPECT_EQ(Outcome(RunDrain, {"a/../b"}).status, 1);
}

TEST(ParseHttpUrl, TakesHostAndPort) {
  const auto full = ParseHttpUrl("http://node-7.example:8000/");
  BALEEN_ASSERT_OK(full);
  EXPECT_EQ(full->host, "node-7.example");
  EXPECT_EQ(full->port, "8000");
  EXPECT_EQ(ParseHttpUrl("http://h")->port, "80");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:9")->host, "::1");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:9")->port, "9");
  for (const char* bad :
       {"", "h:1", "https://h", "http://", "http://:80", "http://h:/", "http://h/x"})
    EXPECT_THAT(ParseHttpUrl(bad), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_))
        << bad;
}

}  // namespace
}  // namespace baleen::tools
