#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"

namespace baleen::v1 {
class Member;
}

namespace baleen::worker {

// One process of a group as others know it; proto/worker.proto's Member as a plain struct.
struct MemberInfo {
  int index = 0;  // stage or rank
  Incarnation incarnation;
  std::string grpc_address;       // host:port
  std::string transport_address;  // opaque, for kv_transfer's Connect
  int pid = 0;
  std::string metrics_address;  // host:port
  int pages = 0;                // of its page pool
};

MemberInfo FromProto(const v1::Member& member);
v1::Member ToProto(const MemberInfo& member);

// Pages of the smallest pool of a group.
int SmallestPool(const std::vector<MemberInfo>& members);

// What one process reports about itself, 10 times a second; MemberLoad of proto/worker.proto.
struct Load {
  int total_pages = 0;
  int free_pages = 0;  // prefix-cached pages count as free
  int quarantined_pages = 0;
  int running = 0;
  int waiting = 0;
  int64_t waiting_tokens = 0;
  int64_t ungranted_tokens = 0;
  std::string transports;
  double accept_length = 0;
  bool unready = false;
};

}  // namespace baleen::worker
