#include "common/fingerprint.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace baleen {

std::optional<std::string> FirstDifference(const Fingerprint& here, const Fingerprint& there) {
  std::map<std::string, std::string> theirs(there.begin(), there.end());
  for (const auto& [name, value] : here) {
    auto it = theirs.find(name);
    if (it == theirs.end()) return absl::StrCat(name, ": ", value, " here, missing there");
    if (it->second != value)
      return absl::StrCat(name, ": ", value, " here, ", it->second, " there");
    theirs.erase(it);
  }
  if (!theirs.empty())
    return absl::StrCat(theirs.begin()->first, ": missing here, ", theirs.begin()->second,
                        " there");
  return std::nullopt;
}

}  // namespace baleen
