#include "common/log.h"
#include "common/run_server.h"
#include "proto/config.pb.h"
#include "router/server.h"

int main(int argc, char** argv) {
  baleen::InitLog("router");
  if (argc != 2) {
    spdlog::error("usage: baleen_router CONFIG.textproto");
    return 2;
  }
  const absl::Status status =
      baleen::RunServer<baleen::router::Server, baleen::v1::RouterConfig>(argv[1]);
  if (!status.ok()) spdlog::error("{}", status.ToString());
  return status.ok() ? 0 : 1;
}
