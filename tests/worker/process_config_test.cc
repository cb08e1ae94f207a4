#include "worker/process_config.h"

#include <gtest/gtest.h>

#include "proto/config.pb.h"
#include "testing/status_matchers.h"

namespace baleen::worker {
namespace {

using ::testing::HasSubstr;

v1::WorkerConfig Leader() {
  v1::WorkerConfig config;
  config.set_group("decode-0");
  config.set_size(2);
  config.set_grpc_port(9200);
  return config;
}

TEST(ProcessConfig, TakesALeaderWithAPortAndAMemberWithALeader) {
  v1::WorkerConfig leader = Leader();
  BALEEN_EXPECT_OK(Complete(leader));
  v1::WorkerConfig member = Leader();
  member.set_index(1);
  member.clear_grpc_port();
  member.set_leader("node-3:9200");
  BALEEN_EXPECT_OK(Complete(member));
}

TEST(ProcessConfig, NamesTheFieldThatIsMissing) {
  const auto error = [](auto change) {
    v1::WorkerConfig config = Leader();
    change(config);
    return std::string(Complete(config).message());
  };
  EXPECT_THAT(error([](auto& c) { c.clear_group(); }), HasSubstr("worker.group"));
  EXPECT_THAT(error([](auto& c) { c.clear_size(); }), HasSubstr("worker.size"));
  EXPECT_THAT(error([](auto& c) { c.set_index(1); }), HasSubstr("worker.leader"));
  EXPECT_THAT(error([](auto& c) { c.clear_grpc_port(); }), HasSubstr("worker.grpc_port"));
  EXPECT_THAT(error([](auto& c) { c.set_lease_ms(0); }), HasSubstr("worker.lease_ms"));
  EXPECT_THAT(error([](auto& c) { c.set_step_timeout_ms(0); }), HasSubstr("step_timeout_ms"));
}

}  // namespace
}  // namespace baleen::worker
