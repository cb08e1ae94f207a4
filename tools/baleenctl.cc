#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "tools/cluster_commands.h"
#include "tools/generate_command.h"
#include "tools/tokenize.h"

namespace baleen::tools {
namespace {

// A subcommand gets the arguments that follow its name and returns the exit status: 0 done, 1
// failed (with a message on stderr), 2 wrong arguments.
struct Subcommand {
  const char* name;
  const char* usage;
  int (*run)(std::span<const std::string> args);
};

constexpr Subcommand kSubcommands[] = {
    {"status", "status [--url URL]", RunStatus},
    {"workers", "workers [--url URL]", RunWorkers},
    {"drain", "drain GROUP [--url URL]", RunDrain},
    {"undrain", "undrain GROUP [--url URL]", RunUndrain},
    {"flush", "flush [--url URL]", RunFlush},
    {"profile", "profile [--seconds N] [--url URL]", RunProfile},
    {"generate", kGenerateUsage, RunGenerate},
    {"tokenize", kTokenizeUsage, RunTokenize},
};

int Usage(std::ostream& out) {
  out << "usage: baleenctl SUBCOMMAND ...\n";
  for (const Subcommand& subcommand : kSubcommands) out << "  " << subcommand.usage << "\n";
  out << "URL is the router's, " << kDefaultUrl << " unless given.\n";
  return 2;
}

int Run(std::span<const std::string> args) {
  if (args.empty()) return Usage(std::cerr);
  if (args[0] == "--help" || args[0] == "help") return Usage(std::cout), 0;
  for (const Subcommand& subcommand : kSubcommands) {
    if (args[0] == subcommand.name) return subcommand.run(args.subspan(1));
  }
  std::cerr << "baleenctl: unknown subcommand '" << args[0] << "'\n";
  return Usage(std::cerr);
}

}  // namespace
}  // namespace baleen::tools

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  return baleen::tools::Run(args);
}
