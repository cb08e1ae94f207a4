#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace baleen::router {

// A part of a URL's path as it is meant: %2F becomes '/'. A '%' that no two hexadecimal digits
// follow stays as it is. The bytes need not be UTF-8.
std::string PercentDecode(absl::string_view text);

}  // namespace baleen::router
