#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::tokenizer {

// A regex of tokenizer.json, which is written for Oniguruma, in PCRE2's syntax with the same
// meaning. Differences that matter: `\s` becomes Unicode's White_Space spelled out, because PCRE2
// counts U+180E too. What the two read differently (nested classes and `&&` in a class, POSIX
// classes, \w, \h, \b, back-references, properties other than general categories) is refused with
// FailedPrecondition naming the construct.
absl::StatusOr<std::string> ToPcre2Pattern(absl::string_view pattern);

}  // namespace baleen::tokenizer
