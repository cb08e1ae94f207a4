#include "model/tokenizer/detokenizer.h"

#include <utility>

#include "absl/strings/string_view.h"
#include "model/tokenizer/utf8.h"

namespace baleen::tokenizer {

std::string Detokenizer::Push(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return {};
  const absl::string_view bytes = tokenizer_.TokenBytes(id);
  if (tokenizer_.IsAdded(id)) {
    std::string text = Finish();
    text.append(bytes.data(), bytes.size());
    return text;
  }
  pending_.append(bytes.data(), bytes.size());
  std::string text;
  absl::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Unit unit = NextUtf8(rest);
    if (unit.kind == Utf8Kind::kIncomplete) break;
    const absl::string_view out =
        unit.kind == Utf8Kind::kValid ? rest.substr(0, unit.bytes) : kReplacement;
    text.append(out.data(), out.size());
    rest.remove_prefix(unit.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string Detokenizer::Finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacement);
}

}  // namespace baleen::tokenizer
