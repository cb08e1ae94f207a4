#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "tools/arguments.h"
#include "tools/random_checkpoint.h"

namespace {

int WrongArguments(absl::string_view why) {
  std::cerr << "baleen_random_checkpoint: " << why << "\n" << baleen::tools::kRandomCheckpointUsage;
  return 2;
}

}  // namespace

// 0: done; 1: failed, with a message on stderr; 2: wrong arguments.
int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto arguments = baleen::tools::ParseArguments(args, {"config", "out", "seed"}, {"help"});
  if (!arguments.ok()) return WrongArguments(arguments.status().message());
  if (arguments->Has("help")) return std::cout << baleen::tools::kRandomCheckpointUsage, 0;
  if (!arguments->Has("config") || !arguments->Has("out") || !arguments->words.empty()) {
    return WrongArguments("--config and --out are wanted, and no plain word");
  }
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(arguments->Get("seed", "0"), &seed)) {
    return WrongArguments("--seed must be a number from 0");
  }
  const absl::Status status =
      baleen::tools::WriteRandomCheckpoint(arguments->Get("config"), arguments->Get("out"), seed);
  if (status.ok()) return 0;
  std::cerr << "baleen_random_checkpoint: " << status.ToString() << "\n";
  return 1;
}
