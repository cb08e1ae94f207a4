#include "tools/arguments.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace baleen::tools {

absl::StatusOr<Arguments> ParseArguments(std::span<const std::string> args,
                                         const std::set<std::string>& with_value,
                                         const std::set<std::string>& switches) {
  Arguments parsed;
  for (size_t i = 0; i < args.size(); ++i) {
    if (!absl::StartsWith(args[i], "--")) {
      parsed.words.push_back(args[i]);
      continue;
    }
    const std::string name = args[i].substr(2);
    const bool takes_value = with_value.contains(name);
    if (!takes_value && !switches.contains(name))
      return absl::InvalidArgumentError(absl::StrCat("unknown option --", name));
    if (takes_value && i + 1 == args.size())
      return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
    if (!parsed.options.emplace(name, takes_value ? args[++i] : "").second)
      return absl::InvalidArgumentError(absl::StrCat("--", name, " is given twice"));
  }
  return parsed;
}

}  // namespace baleen::tools
