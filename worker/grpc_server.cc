#include "worker/grpc_server.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "worker/channel.h"

namespace baleen::worker {

absl::StatusOr<GrpcServer> ListenGrpc(int port, const std::vector<grpc::Service*>& services) {
  GrpcServer listening;
  const std::string address = absl::StrCat("0.0.0.0:", port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &listening.port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a taken port is an error
  builder.SetMaxReceiveMessageSize(-1);
  // The router pings every 3 s while a stream is silent.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  for (grpc::Service* service : services) builder.RegisterService(service);
  listening.server = builder.BuildAndStart();
  if (listening.server == nullptr || listening.port == 0)
    return absl::UnavailableError(absl::StrCat("worker.grpc_port: cannot listen on ", address));
  return listening;
}

}  // namespace baleen::worker
