#include "worker/member.h"

#include <algorithm>

#include "proto/worker.pb.h"

namespace baleen::worker {

MemberInfo FromProto(const v1::Member& member) {
  return {.index = member.index(),
          .incarnation = {member.incarnation()},
          .grpc_address = member.grpc_address(),
          .transport_address = member.transport_address(),
          .pid = member.pid(),
          .metrics_address = member.metrics_address(),
          .pages = member.pages()};
}

v1::Member ToProto(const MemberInfo& member) {
  v1::Member proto;
  proto.set_index(member.index);
  proto.set_incarnation(member.incarnation.value);
  proto.set_grpc_address(member.grpc_address);
  proto.set_transport_address(member.transport_address);
  proto.set_pid(member.pid);
  proto.set_metrics_address(member.metrics_address);
  proto.set_pages(member.pages);
  return proto;
}

int SmallestPool(const std::vector<MemberInfo>& members) {
  int pages = members.front().pages;
  for (const MemberInfo& member : members) pages = std::min(pages, member.pages);
  return pages;
}

}  // namespace baleen::worker
