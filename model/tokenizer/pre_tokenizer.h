#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// PCRE2's own types, so that its header stays out of ours.
struct pcre2_real_code_8;

namespace baleen::tokenizer {

// Cuts text into the pieces that BPE works on: each pattern in turn splits the pieces left by the
// one before; matches and the gaps between them both become pieces. A pattern sees only its piece,
// so a look-ahead ends there (section 6.1 step 3 of the model's specification).
// Threads: ForEachPiece is const and safe from any.
class PreTokenizer {
 public:
  // `patterns` in Oniguruma's syntax. Errors: see ToPcre2Pattern; InvalidArgument for one that does
  // not compile. Messages begin with "pattern I".
  static absl::StatusOr<PreTokenizer> Create(std::span<const std::string> patterns);

  // Calls `piece` for every piece in order; they are not empty and together are `text`, which must
  // be valid UTF-8. Internal if the regex library fails.
  absl::Status ForEachPiece(absl::string_view text,
                            absl::FunctionRef<void(absl::string_view)> piece) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  struct Pattern {
    std::unique_ptr<pcre2_real_code_8, CodeDeleter> code;
    bool jit;  // false where the machine forbids it; then interpreted
  };
  class Walk;

  std::vector<Pattern> patterns_;
};

}  // namespace baleen::tokenizer
