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
  ClusterView view = View();
  view.decode.push_back(view.decode[0]);
  view.decode[1].loads[1].accept_length = 1.5;
  view.prefill.push_back(view.decode[0]);
  view.prefill[0].loads[1].accept_length = 0;
  const auto accept_length = [](const Json& server) -> Json {
    return server.at("internal_states").at(0).at("avg_spec_accept_length");
  };
  const Json info = ServerInfoJson(TinyModel(), view);
  EXPECT_EQ(accept_length(info), 2.0);
  // bench_serving puts the first decode entry in place of the whole, bench_one_batch_server looks
  // for the tokenizer in the first prefill entry.
  ASSERT_EQ(info["decode"].size(), 2u);
  EXPECT_EQ(accept_length(info["decode"][0]), 2.5);
  EXPECT_EQ(accept_length(info["decode"][1]), 1.5);
  EXPECT_EQ(accept_length(info["prefill"][0]), 0.0);
  for (const Json* server : {&info, &info["prefill"][0], &info["decode"][0]})
    EXPECT_EQ(server->at("tokenizer_path"), TinyModel().directory);
}

TEST(InfoJson, ARoleWithoutGroupsIsLeftOut) {
  const Json none = ServerInfoJson(TinyModel(), ClusterView());
  EXPECT_FALSE(none.contains("prefill") || none.contains("decode"));
  EXPECT_EQ(none["internal_states"][0]["avg_spec_accept_length"], 0);
  EXPECT_TRUE(ServerInfoJson(TinyModel(), View()).contains("decode"));
}

TEST(InfoJson, TheModelsLengthIsTheClusters) {
  EXPECT_EQ(ModelJson(TinyModel(), ClusterView())["max_model_len"], 16384);
  EXPECT_EQ(ModelInfoJson(TinyModel(), View())["vocab_size"], 4096);
}

}  // namespace
}  // namespace baleen::router
