#include "router/api/info_json.h"

#include <span>

#include "absl/strings/str_format.h"
#include "router/router_context.h"

namespace baleen::router {
namespace {

Json MemberJson(const WorkerMember& member, const WorkerLoad& load, const Assigned& assigned) {
  return {{"index", member.index},
          {"pid", member.pid},
          {"grpc_address", member.grpc_address},
          {"metrics_address", member.metrics_address},
          {"total_pages", load.total_pages},
          {"free_pages", load.free_pages},
          {"quarantined_pages", load.quarantined_pages},
          {"running", load.running},
          {"waiting", load.waiting},
          {"waiting_tokens", load.waiting_tokens},
          {"ungranted_tokens", load.ungranted_tokens},
          {"transports", load.transports},
          {"accept_length", load.accept_length},
          {"unready", load.unready},
          {"assigned_requests", assigned.requests},
          {"assigned_tokens", assigned.tokens}};
}

Json GroupJson(const GroupView& group) {
  const GroupIdentity& identity = *group.identity;
  Json json = {{"group", identity.name},
               {"role", ToString(identity.role)},
               {"state", ToString(group.state)},
               {"incarnation", absl::StrFormat("%016x", identity.incarnation)},
               {"max_context", identity.max_context},
               {"pool_tokens", identity.pool_tokens},
               {"drafts", identity.drafts}};
  json["members"] = Json::array();
  for (size_t i = 0; i < identity.members.size(); ++i)
    json["members"].push_back(MemberJson(identity.members[i], group.loads[i], group.assigned[i]));
  return json;
}

// Mean over the ranks that speculate; 0 if none.
double MeanAcceptLength(std::span<const GroupView> groups) {
  double sum = 0;
  int ranks = 0;
  for (const GroupView& group : groups)
    for (const WorkerLoad& load : group.loads)
      if (load.accept_length > 0) {
        sum += load.accept_length;
        ++ranks;
      }
  return ranks == 0 ? 0 : sum / ranks;
}

// What SGLang's servers all say of themselves, and its benchmarks read.
void AddServerFields(const ModelInfo& model, std::span<const GroupView> decode, Json* json) {
  (*json)["tokenizer_path"] = model.directory;
  (*json)["internal_states"] =
      Json::array({{{"avg_spec_accept_length", MeanAcceptLength(decode)}}});
}

// Left out when there is no group: readers take the first entry if the key is there.
void AddServers(const ModelInfo& model, const std::vector<GroupView>& groups, const char* role,
                Json* json) {
  for (const GroupView& group : groups) {
    Json server = GroupJson(group);
    AddServerFields(model, {&group, 1}, &server);
    (*json)[role].push_back(std::move(server));
  }
}

}  // namespace

Json ModelJson(const ModelInfo& model, const ClusterView& view) {
  return {{"id", model.name},   {"object", "model"},
          {"created", 0},       {"owned_by", "baleen"},
          {"root", model.name}, {"max_model_len", view.MaxContext(model.max_context)}};
}

Json WorkersJson(const ClusterView& view) {
  Json workers = Json::array();
  for (const auto* groups : {&view.prefill, &view.decode})
    for (const GroupView& group : *groups) workers.push_back(GroupJson(group));
  return {{"workers", std::move(workers)}};
}

Json ServerInfoJson(const ModelInfo& model, const ClusterView& view) {
  Json json = {{"version", kVersion},
               {"served_model_name", model.name},
               {"model_path", model.directory},
               {"max_model_len", view.MaxContext(model.max_context)}};
  AddServerFields(model, view.decode, &json);
  AddServers(model, view.prefill, "prefill", &json);
  AddServers(model, view.decode, "decode", &json);
  return json;
}

Json ModelInfoJson(const ModelInfo& model, const ClusterView& view) {
  return {{"model_path", model.directory},   {"tokenizer_path", model.directory},
          {"served_model_name", model.name}, {"is_generation", true},
          {"vocab_size", model.vocab_size},  {"max_model_len", view.MaxContext(model.max_context)}};
}

}  // namespace baleen::router
