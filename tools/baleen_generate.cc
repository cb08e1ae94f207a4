#include <iostream>
#include <string>
#include <vector>

#include "common/log.h"
#include "tools/generate.h"

// 0: done; 1: failed, with a message on stderr; 2: wrong arguments.
int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  for (const std::string& arg : args) {
    if (arg == "--help") return std::cout << baleen::tools::kGenerateUsage, 0;
  }
  baleen::InitLog("generate");
  const auto options = baleen::tools::ParseGenerateOptions(args);
  if (!options.ok()) {
    std::cerr << "baleen_generate: " << options.status().message() << "\n"
              << baleen::tools::kGenerateUsage;
    return 2;
  }
  const absl::Status status = baleen::tools::Generate(*options, std::cout);
  if (status.ok()) return 0;
  std::cerr << "baleen_generate: " << status.ToString() << "\n";
  return 1;
}
