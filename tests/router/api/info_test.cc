#include "router/api/info_json.h"

#include "gmock/gmock.h"
#include "router/api/tiny_model.h"
#include "router/directory_fixture.h"

namespace baleen::router {
namespace {

ClusterView View() {
  ClusterView view;
  auto identity = std::make_shared<GroupIdentity>(MakeIdentity(WorkerRole::kDecode, "d0", 5, 2));
  GroupView group{.id = GroupId{1}, .identity = identity, .state = GroupState::kSuspect};
  group.loads.resize(2);
  group.assigned.resize(2);
  group.loads[1].accept_length = 2.5;
  group.assigned[1].tokens = 42;
  view.decode.push_back(group);
  return view;
}

TEST(InfoJson, WorkersShowStateAndMembers) {
  const Json worker = WorkersJson(View())["workers"][0];
  EXPECT_EQ(worker["role"], "decode");
  EXPECT_EQ(worker["state"], "suspect");
  EXPECT_EQ(worker["members"][1]["assigned_tokens"], 42);
  EXPECT_EQ(worker["members"][1]["grpc_address"], "d0:1");
}

TEST(InfoJson, BenchmarksFindTheAcceptLength) {
  const Json info = ServerInfoJson(TinyModel(), View());
  EXPECT_EQ(info["internal_states"][0]["avg_spec_accept_length"], 2.5);
  EXPECT_EQ(info["decode"].size(), 1u);
  EXPECT_EQ(MeanAcceptLength(ClusterView()), 0);
}

TEST(InfoJson, TheModelsLengthIsTheClusters) {
  EXPECT_EQ(ModelJson(TinyModel(), ClusterView())["max_model_len"], 16384);
  EXPECT_EQ(ModelInfoJson(TinyModel(), View())["vocab_size"], 4096);
}

}  // namespace
}  // namespace baleen::router
