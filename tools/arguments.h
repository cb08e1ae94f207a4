#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace baleen::tools {

// A subcommand's command line: "--name value", "--switch" and plain words, in any order.
struct Arguments {
  std::map<std::string, std::string> options;  // by name, without dashes; a switch has value ""
  std::vector<std::string> words;

  bool Has(const std::string& name) const { return options.contains(name); }
  std::string Get(const std::string& name, const std::string& otherwise = "") const {
    const auto it = options.find(name);
    return it == options.end() ? otherwise : it->second;
  }
};

// InvalidArgument for an option that is not in `with_value` or `switches`, comes twice, or lacks
// its value.
absl::StatusOr<Arguments> ParseArguments(std::span<const std::string> args,
                                         const std::set<std::string>& with_value,
                                         const std::set<std::string>& switches = {});

}  // namespace baleen::tools
