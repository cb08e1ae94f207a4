#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "router/worker_directory.h"

namespace baleen::router {

// A registration that the directory accepts.
inline GroupIdentity MakeIdentity(WorkerRole role, const std::string& name, uint64_t incarnation,
                                  int members = 1) {
  GroupIdentity identity;
  identity.role = role;
  identity.name = name;
  identity.incarnation = incarnation;
  for (int i = 0; i < members; ++i)
    identity.members.push_back({.index = i,
                                .incarnation = incarnation + uint64_t(i),
                                .grpc_address = absl::StrCat(name, ":", i),
                                .transport_address = "ucx"});
  identity.fingerprint = {{"model", "m1"}, {"tokenizer", "t1"}, {"page_tokens", "64"}};
  identity.max_context = 16384;
  identity.pool_tokens = 65536;
  return identity;
}

inline WorkerDirectory::Report MakeReport(GroupState state, int members = 1, int used_pages = 0) {
  WorkerDirectory::Report report;
  report.state = state;
  report.loads.resize(size_t(members), {.total_pages = 1024, .free_pages = 1024 - used_pages});
  return report;
}

// Registers a group and makes it ready.
inline GroupId AddReady(WorkerDirectory& directory, WorkerRole role, const std::string& name,
                        uint64_t incarnation, int members = 1) {
  const auto id = directory.Register(MakeIdentity(role, name, incarnation, members));
  BALEEN_CHECK(id.ok());
  BALEEN_CHECK(directory.Update(*id, MakeReport(GroupState::kReady, members)).ok());
  return *id;
}

}  // namespace baleen::router
