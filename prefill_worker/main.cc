#include "common/log.h"
#include "common/run_server.h"
#include "prefill_worker/server.h"
#include "proto/config.pb.h"

int main(int argc, char** argv) {
  baleen::InitLog("prefill");
  if (argc != 2) {
    spdlog::error("usage: baleen_prefill CONFIG.textproto");
    return 2;
  }
  const absl::Status status =
      baleen::RunServer<baleen::prefill_worker::Server, baleen::v1::PrefillConfig>(argv[1]);
  if (!status.ok()) spdlog::error("{}", status.ToString());
  return status.ok() ? 0 : 1;
}
