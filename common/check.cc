#include "common/check.h"

#include <cstdio>
#include <cstdlib>

namespace baleen::internal {

void CheckFailed(const char* what, const char* detail, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %s %s\n", file, line, what, detail);
  std::abort();
}

}  // namespace baleen::internal
