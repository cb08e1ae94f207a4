#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "router/chat/markers.h"
#include "router/chat/python_json.h"
#include "router/chat/tag_match.h"
#include "router/chat/tool_block_parser.h"

namespace baleen::chat {
namespace {

// Longer headers are taken for text, so that an open quote cannot hold back the rest of the output.
constexpr size_t kMaxInvokeHeaderBytes = 1024;
constexpr size_t kMaxParameterHeaderBytes = 8192;

// A value is one level inside the arguments.
constexpr JsonLimits kValueLimits = {.depth = JsonLimits{}.depth - 1};

// The attributes of an opening tag: ` name="NAME" REST>`.
struct TagHeader {
  TagMatch match = TagMatch::kNo;
  absl::string_view name;
  absl::string_view attributes;  // after the name, trimmed; a '/' at the end is taken off
  bool self_closing = false;     // the '/' was there
  size_t bytes = 0;              // through the '>'
};

TagHeader ParseHeader(absl::string_view text) {
  constexpr absl::string_view kName = "name=\"";
  const size_t name_at = text.find_first_not_of(" \n\r\t");
  if (name_at == absl::string_view::npos) return {.match = TagMatch::kPartial};
  if (name_at == 0) return {};
  const TagMatch name = StartsWithTag(text.substr(name_at), kName);
  if (name != TagMatch::kYes) return {.match = name};
  const size_t begin = name_at + kName.size();
  const size_t quote = text.find('"', begin);
  if (quote == absl::string_view::npos) return {.match = TagMatch::kPartial};
  const size_t end = text.find('>', quote);
  if (end == absl::string_view::npos) return {.match = TagMatch::kPartial};

  TagHeader header{.match = TagMatch::kYes, .name = text.substr(begin, quote - begin)};
  header.attributes = absl::StripAsciiWhitespace(text.substr(quote + 1, end - quote - 1));
  header.self_closing = absl::ConsumeSuffix(&header.attributes, "/");
  header.attributes = absl::StripTrailingAsciiWhitespace(header.attributes);
  header.bytes = end + 1;
  return header;
}

// ParseHeader of `text`, refusing a header over `limit` bytes however it is cut into pieces.
TagHeader ParseHeader(absl::string_view text, size_t limit) {
  TagHeader header = ParseHeader(text);
  if (header.match == TagMatch::kPartial && text.size() > limit) header.match = TagMatch::kNo;
  if (header.match == TagMatch::kYes && header.bytes > limit) header.match = TagMatch::kNo;
  return header;
}

class DsmlBlockParser final : public ToolBlockParser {
 private:
  enum class State : uint8_t {
    kBetween,          // before, between or after calls
    kInvokeHeader,     // after <｜DSML｜invoke
    kBody,             // a parameter or the end of the call is due
    kRawBody,          // something else came instead of the first parameter
    kParameterHeader,  // after <｜DSML｜parameter
    kStringValue,      // string="true"
    kJsonValue         // everything else
  };
  enum class Tag : uint8_t { kNone, kPartial, kParameter, kInvokeClose, kOther };

  bool in_call() const override { return state_ != State::kBetween; }
  absl::string_view closing_tag() const override { return kCallsClose; }

  Next Step(OutputEvents* out) override {
    switch (state_) {
      case State::kBetween: {
        bool opens = false;
        const Next next = FindCall(kInvokeOpen, &opens);
        if (opens) state_ = State::kInvokeHeader;
        return next;
      }
      case State::kInvokeHeader:
        return InvokeHeader(out);
      case State::kBody:
        return Body(out);
      case State::kRawBody:
        return RawBody(out);
      case State::kParameterHeader:
        return ParameterHeader(out);
      case State::kStringValue:
        return StringValue(out);
      case State::kJsonValue:
        return JsonValue(out);
    }
    return Next::kReject;
  }

  Next InvokeHeader(OutputEvents* out) {
    const TagHeader header = ParseHeader(rest(), kMaxInvokeHeaderBytes);
    if (header.match == TagMatch::kPartial) return Next::kNeedsText;
    if (header.match == TagMatch::kNo || header.name.empty() || !header.attributes.empty()) {
      state_ = State::kBetween;
      return GiveUpCall();
    }
    name_ = std::string(header.name);
    Take(header.bytes);
    parameters_ = 0;
    keys_.clear();
    begun_ = malformed_ = repeated_keys_ = raw_ = false;
    if (header.self_closing) return CloseCall(out);
    state_ = State::kBody;
    return Next::kAgain;
  }

  // A call begins with the first of its arguments: before them its body may turn out to be text.
  void Emit(absl::string_view json, OutputEvents* out) {
    if (!std::exchange(begun_, true)) BeginCall(name_, out);
    EmitArguments(json, out);
  }

  Next CloseCall(OutputEvents* out) {
    if (!raw_) Emit(parameters_ == 0 ? "{}" : "}", out);
    EndCall(malformed_, repeated_keys_, out);
    state_ = State::kBetween;
    return Next::kAgain;
  }

  // The tag at the start of `text` that may follow a parameter.
  static Tag TagAt(absl::string_view text) {
    const std::pair<absl::string_view, Tag> tags[] = {{kParameterOpen, Tag::kParameter},
                                                      {kInvokeClose, Tag::kInvokeClose},
                                                      {kCallsClose, Tag::kOther},
                                                      {kInvokeOpen, Tag::kOther}};
    Tag found = Tag::kNone;
    for (const auto& [text_of_tag, tag] : tags) {
      const TagMatch match = StartsWithTag(text, text_of_tag);
      if (match == TagMatch::kYes) return tag;
      if (match == TagMatch::kPartial) found = Tag::kPartial;
    }
    return found;
  }

  Next Body(OutputEvents* out) {
    TakeSpace();
    switch (TagAt(rest())) {
      case Tag::kPartial:
        return Next::kNeedsText;
      case Tag::kParameter:
        Take(sizeof(kParameterOpen) - 1);
        state_ = State::kParameterHeader;
        return Next::kAgain;
      case Tag::kInvokeClose:
        Take(sizeof(kInvokeClose) - 1);
        return CloseCall(out);
      case Tag::kOther:  // the closing tag of the call is missing
        return CloseCall(out);
      case Tag::kNone:
        break;
    }
    if (parameters_ == 0) {
      state_ = State::kRawBody;
      scan_ = 0;
    } else {
      malformed_ = true;
      TakeJunk();
    }
    return Next::kAgain;
  }

  // Instead of parameters, a JSON object that holds them all is accepted. Any other body makes the
  // call text.
  Next RawBody(OutputEvents* out) {
    Tag tag = Tag::kNone;
    for (; tag == Tag::kNone; ++scan_) {
      scan_ = std::min(rest().find('<', scan_), rest().size());
      tag = TagAt(rest().substr(scan_));
      if (tag == Tag::kPartial) return Next::kNeedsText;
    }
    --scan_;
    state_ = State::kBody;
    const absl::string_view body = absl::StripAsciiWhitespace(rest().substr(0, scan_));
    if (tag == Tag::kParameter) {
      malformed_ = true;  // junk before the first parameter
    } else if (const auto json = ParseJson(body); json.ok() && json->is_object()) {
      Emit(body, out);
      raw_ = true;
    } else {
      Take(scan_ + (tag == Tag::kInvokeClose ? sizeof(kInvokeClose) - 1 : 0));
      state_ = State::kBetween;
      return CallIsText();
    }
    Take(scan_);
    return Next::kAgain;
  }

  Next ParameterHeader(OutputEvents* out) {
    const TagHeader header = ParseHeader(rest(), kMaxParameterHeaderBytes);
    if (header.match == TagMatch::kPartial) return Next::kNeedsText;
    if (header.match == TagMatch::kNo) {
      malformed_ = true;
      state_ = State::kBody;
      return Next::kAgain;
    }
    const bool is_string = header.attributes == "string=\"true\"";
    std::string json = parameters_ == 0 ? "{" : ", ";
    AppendJsonString(header.name, &json);
    absl::StrAppend(&json, ": ", is_string ? "\"" : "");
    Emit(json, out);
    if (!keys_.insert(std::string(header.name)).second) repeated_keys_ = true;
    ++parameters_;
    const bool empty = header.self_closing;
    Take(header.bytes);
    scan_ = 0;
    state_ = is_string ? State::kStringValue : State::kJsonValue;
    if (empty) EndValue(is_string ? "\"" : "\"\"", out);
    return Next::kAgain;
  }

  void EndValue(absl::string_view json, OutputEvents* out) {
    Emit(json, out);
    state_ = State::kBody;
  }

  Next StringValue(OutputEvents* out) {
    const size_t close = rest().find(kParameterClose);
    const bool complete = close != absl::string_view::npos;
    const size_t certain =
        complete ? close : rest().size() - PartialTagBytes(rest(), kParameterClose);
    std::string escaped;
    AppendJsonEscaped(rest().substr(0, certain), &escaped);
    Emit(escaped, out);
    Take(certain);
    if (!complete) return Next::kNeedsText;
    Take(sizeof(kParameterClose) - 1);
    EndValue("\"", out);
    return Next::kAgain;
  }

  // Emitted in one piece, because only the whole shows whether it is JSON.
  Next JsonValue(OutputEvents* out) {
    const size_t close = rest().find(kParameterClose, scan_);
    if (close == absl::string_view::npos) {
      scan_ = rest().size() - PartialTagBytes(rest(), kParameterClose);
      return Next::kNeedsText;
    }
    const absl::string_view value = rest().substr(0, close);
    if (ParseJson(value, kValueLimits).ok()) {
      EndValue(value, out);
    } else {
      std::string quoted;
      AppendJsonString(value, &quoted);
      EndValue(quoted, out);
    }
    Take(close + sizeof(kParameterClose) - 1);
    return Next::kAgain;
  }

  State state_ = State::kBetween;
  size_t scan_ = 0;  // in kRawBody and kJsonValue: no end before this place of rest()
  // Of the call being parsed:
  std::string name_;
  bool begun_ = false;
  int parameters_ = 0;
  absl::flat_hash_set<std::string> keys_;
  bool repeated_keys_ = false;
  bool malformed_ = false;
  bool raw_ = false;  // the arguments came as one JSON object
};

}  // namespace

std::unique_ptr<ToolBlockParser> MakeDsmlBlockParser() {
  return std::make_unique<DsmlBlockParser>();
}

}  // namespace baleen::chat
