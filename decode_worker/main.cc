#include "common/log.h"
#include "common/run_server.h"
#include "decode_worker/server.h"
#include "proto/config.pb.h"

int main(int argc, char** argv) {
  baleen::InitLog("decode");
  if (argc != 2) {
    spdlog::error("usage: baleen_decode CONFIG.textproto");
    return 2;
  }
  const absl::Status status =
      baleen::RunServer<baleen::decode_worker::Server, baleen::v1::DecodeConfig>(argv[1]);
  if (!status.ok()) spdlog::error("{}", status.ToString());
  return status.ok() ? 0 : 1;
}
