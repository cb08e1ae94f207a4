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

TEST(CheckMembership, TakesALeaderWithAPortAndAMemberWithALeader) {
  BALEEN_EXPECT_OK(CheckMembership(Leader()));
  v1::WorkerConfig member = Leader();
  member.set_index(1);
  member.clear_grpc_port();
  member.set_leader("node-3:9200");
  BALEEN_EXPECT_OK(CheckMembership(member));
}

TEST(CheckMembership, NamesTheFieldThatIsMissing) {
  const auto error = [](auto change) {
    v1::WorkerConfig config = Leader();
    change(config);
    return std::string(CheckMembership(config).message());
  };
  EXPECT_THAT(error([](auto& c) { c.clear_group(); }), HasSubstr("worker.group"));
  EXPECT_THAT(error([](auto& c) { c.clear_size(); }), HasSubstr("worker.size"));
  EXPECT_THAT(error([](auto& c) { c.set_index(1); }), HasSubstr("worker.leader"));
  EXPECT_THAT(error([](auto& c) { c.clear_grpc_port(); }), HasSubstr("worker.grpc_port"));
}

}  // namespace
}  // namespace baleen::worker
