#include "model/tokenizer/pre_tokenizer.h"

#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace baleen::tokenizer {
namespace {

std::string Pcre2Message(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

void PreTokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::span<const std::string> patterns) {
  PreTokenizer made;
  for (size_t i = 0; i < patterns.size(); ++i) {
    absl::StatusOr<std::string> regex = ToPcre2Pattern(patterns[i]);
    if (!regex.ok()) {
      return absl::Status(regex.status().code(),
                          absl::StrCat("pattern ", i, ": ", regex.status().message()));
    }
    int error = 0;
    PCRE2_SIZE offset = 0;
    // MULTILINE is how Oniguruma reads ^ and $.
    pcre2_code* code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex->data()), regex->size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, nullptr);
    if (code == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("pattern ", i, ": ", Pcre2Message(error), " at byte ", offset));
    }
    const bool jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    made.patterns_.push_back({std::unique_ptr<pcre2_code, CodeDeleter>(code), jit});
  }
  return made;
}

// One ForEachPiece: the buffers PCRE2 wants per match.
class PreTokenizer::Walk {
 public:
  Walk(const std::vector<Pattern>& patterns, absl::FunctionRef<void(absl::string_view)> piece)
      : patterns_(patterns), piece_(piece) {
    constexpr uint32_t kNoLimit = std::numeric_limits<uint32_t>::max();
    BALEEN_CHECK(data_ != nullptr && context_ != nullptr);  // out of memory
    pcre2_set_match_limit(context_.get(), kNoLimit);
    pcre2_set_depth_limit(context_.get(), kNoLimit);
    pcre2_set_heap_limit(context_.get(), kNoLimit);
  }

  // Splits `text` by patterns_[stage] and what follows it.
  absl::Status Split(size_t stage, absl::string_view text) {
    if (stage == patterns_.size()) {
      piece_(text);
      return absl::OkStatus();
    }
    size_t done = 0;    // text before this has been handed on
    size_t search = 0;  // where the next match may begin
    while (search < text.size()) {
      BALEEN_ASSIGN_OR_RETURN(const std::optional<Range> match,
                              Match(patterns_[stage], text, search));
      if (!match) break;
      BALEEN_RETURN_IF_ERROR(SplitPart(stage + 1, text, {done, match->begin}));
      BALEEN_RETURN_IF_ERROR(SplitPart(stage + 1, text, *match));
      done = search = match->end;
      // An empty match is a cut, and the search goes on behind the next character.
      if (match->begin == match->end && search < text.size()) {
        search += NextUtf8(text.substr(search)).bytes;
      }
    }
    return SplitPart(stage + 1, text, {done, text.size()});
  }

 private:
  struct Range {
    size_t begin, end;
  };
  struct Deleter {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };

  absl::Status SplitPart(size_t stage, absl::string_view text, Range part) {
    if (part.begin == part.end) return absl::OkStatus();
    return Split(stage, text.substr(part.begin, part.end - part.begin));
  }

  absl::StatusOr<std::optional<Range>> Match(const Pattern& pattern, absl::string_view text,
                                             size_t from) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (pattern.jit) {
      rc = pcre2_jit_match(pattern.code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                           data_.get(), context_.get());
    }
    // The interpreter keeps its stack on the heap and grows it as needed.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(pattern.code.get(), subject, text.size(), from,
                       PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data_.get(), context_.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (rc < 0) return absl::InternalError(absl::StrCat("PCRE2: ", Pcre2Message(rc)));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data_.get());
    return Range{ends[0], ends[1]};
  }

  const std::vector<Pattern>& patterns_;
  const absl::FunctionRef<void(absl::string_view)> piece_;
  const std::unique_ptr<pcre2_match_data, Deleter> data_{pcre2_match_data_create(1, nullptr)};
  const std::unique_ptr<pcre2_match_context, Deleter> context_{pcre2_match_context_create(nullptr)};
};

absl::Status PreTokenizer::ForEachPiece(absl::string_view text,
                                        absl::FunctionRef<void(absl::string_view)> piece) const {
  if (text.empty()) return absl::OkStatus();
  return Walk(patterns_, piece).Split(0, text);
}

}  // namespace baleen::tokenizer
