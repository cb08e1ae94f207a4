#pragma once

#include <memory>
#include <string>

#include "grpcpp/create_channel.h"

namespace baleen::worker {

// A plain-text channel to a process of the cluster that may not be up yet: tries again every 100 ms
// to 1 s, where gRPC's default waits up to two minutes.
inline std::shared_ptr<grpc::Channel> ClusterChannel(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  args.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

}  // namespace baleen::worker
