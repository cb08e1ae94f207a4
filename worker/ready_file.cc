#include "worker/ready_file.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace baleen::worker {

absl::Status WriteReadyFile(const std::string& path, int grpc_port, int metrics_port) {
  if (path.empty()) return absl::OkStatus();
  const std::string draft = path + ".tmp";
  std::ofstream out(draft);
  out << "grpc_port=" << grpc_port << "\nmetrics_port=" << metrics_port << "\npid=" << getpid()
      << "\n";
  out.close();
  if (!out || std::rename(draft.c_str(), path.c_str()) != 0)
    return absl::UnavailableError(absl::StrCat("ready_file: cannot write ", path));
  return absl::OkStatus();
}

}  // namespace baleen::worker
