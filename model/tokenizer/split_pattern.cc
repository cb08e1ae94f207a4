#include "model/tokenizer/split_pattern.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::tokenizer {
namespace {

// Unicode's White_Space, as the inside of a class.
constexpr absl::string_view kWhiteSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < in_.size()) BALEEN_RETURN_IF_ERROR(Step());
    if (in_class_) return Refuse("a class without its closing bracket");
    return std::move(out_);
  }

 private:
  absl::Status Step() {
    const char c = in_[pos_];
    if (c == '\\') return Escape();
    if (in_class_) {
      if (c == '[') return Refuse("'[' inside a class");
      if (in_.substr(pos_, 2) == "&&") return Refuse("'&&' inside a class");
      if (c == ']') in_class_ = false;
    } else if (c == '[') {
      in_class_ = true;
    }
    out_.push_back(c);
    ++pos_;
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (pos_ + 1 == in_.size()) return Refuse("a trailing backslash");
    const char c = in_[pos_ + 1];
    if (c == 's' || c == 'S') return WhiteSpace(/*negated=*/c == 'S');
    if (c == 'p' || c == 'P') return Property();
    const bool same_in_both = !absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == 'r' ||
                              c == 'n' || c == 't' || c == 'd' || c == 'D';
    if (!same_in_both) return Refuse(absl::StrCat("\\", in_.substr(pos_ + 1, 1)));
    absl::StrAppend(&out_, in_.substr(pos_, 2));
    pos_ += 2;
    return absl::OkStatus();
  }

  absl::Status WhiteSpace(bool negated) {
    if (in_class_ && negated) return Refuse("\\S inside a class");
    if (in_class_) {
      absl::StrAppend(&out_, kWhiteSpace);
    } else {
      absl::StrAppend(&out_, negated ? "[^" : "[", kWhiteSpace, "]");
    }
    pos_ += 2;
    return absl::OkStatus();
  }

  // \p{L}, \p{Lu}: general categories have one or two letters. Longer names are scripts, of which
  // PCRE2 takes the extensions too, or properties it may not know.
  absl::Status Property() {
    const size_t close = in_.find('}', pos_);
    const bool is_category = in_.substr(pos_ + 2, 1) == "{" && close != in_.npos &&
                             close > pos_ + 3 && close <= pos_ + 5 &&
                             absl::ascii_isupper(static_cast<unsigned char>(in_[pos_ + 3]));
    if (!is_category) return Refuse("a \\p that is no general category");
    absl::StrAppend(&out_, in_.substr(pos_, close + 1 - pos_));
    pos_ = close + 1;
    return absl::OkStatus();
  }

  absl::Status Refuse(absl::string_view what) const {
    return absl::FailedPreconditionError(
        absl::StrCat("regex with ", what, " at byte ", pos_, " is not supported"));
  }

  const absl::string_view in_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> ToPcre2Pattern(absl::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace baleen::tokenizer
