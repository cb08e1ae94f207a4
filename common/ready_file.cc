#include "common/ready_file.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace baleen {

absl::Status WriteReadyFile(const std::string& path,
                            const std::vector<std::pair<const char*, int>>& ports) {
  if (path.empty()) return absl::OkStatus();
  const std::string draft = path + ".tmp";
  std::ofstream out(draft);
  for (const auto& [name, port] : ports) out << name << "=" << port << "\n";
  out << "pid=" << getpid() << "\n";
  out.close();
  if (!out || std::rename(draft.c_str(), path.c_str()) != 0)
    return absl::UnavailableError(absl::StrCat("ready_file: cannot write ", path));
  return absl::OkStatus();
}

}  // namespace baleen
