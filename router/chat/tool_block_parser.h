#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "router/chat/chat_message.h"
#include "router/chat/output_event.h"

namespace baleen::chat {

// Parses the text after the tag that opens a block of tool calls, to the end of the output. Models
// deviate from the format: missing line breaks and closing tags are tolerated, text where there
// should be none is dropped and counted.
// Threads: one at a time.
class ToolBlockParser {
 public:
  static std::unique_ptr<ToolBlockParser> Create(ChatStyle style);
  // The tag that opens a block.
  static absl::string_view OpeningTag(ChatStyle style);

  virtual ~ToolBlockParser() = default;

  // False: this is no block of calls, the model only wrote its opening tag. That can be said only
  // while no call has begun; nothing was emitted, and raw() is all the text so far. Not to be used
  // any further then.
  bool Push(absl::string_view text, OutputEvents* out);
  // Whether a call has begun.
  bool committed() const { return calls_begun_ > 0; }
  // The end of the output. If no call has begun, the block is incomplete and raw() is its text.
  OutputEnd Finish();
  // The text since the opening tag, or since the last complete call if there is one.
  absl::string_view raw() const { return absl::string_view(buffer_).substr(raw_begin_); }

 protected:
  enum class Next : uint8_t { kAgain, kNeedsText, kReject };

  // Takes the next part of rest(), if it is certain.
  virtual Next Step(OutputEvents* out) = 0;
  virtual bool in_call() const = 0;
  virtual absl::string_view closing_tag() const = 0;

  // Between calls: finds the next tag, which is either consumed or junk. `*opens` becomes true when
  // it was `call_tag`.
  Next FindCall(absl::string_view call_tag, bool* opens);
  // What follows the tag of a call makes no sense.
  Next GiveUpCall();
  // The call that ends here, and was not begun, is text: its body holds no arguments.
  Next CallIsText();
  void BeginCall(absl::string_view name, OutputEvents* out);
  void EmitArguments(absl::string_view json, OutputEvents* out);
  void EndCall(bool malformed, bool repeated_keys, OutputEvents* out);

  absl::string_view rest() const { return absl::string_view(buffer_).substr(position_); }
  void Take(size_t bytes) { position_ += bytes; }
  void TakeSpace();
  // Takes at least one byte and all up to the next '<'.
  void TakeJunk();

 private:
  Next DropJunk(size_t from);

  std::string buffer_;
  size_t position_ = 0;  // up to here it is parsed
  size_t raw_begin_ = 0;
  size_t first_call_ = 0;  // where the first call's tag is, while it may still be text
  int calls_begun_ = 0;
  bool in_junk_ = false;    // between calls, in text to be dropped up to the next '<'
  bool lost_call_ = false;  // that text may be of a call that was given up
  OutputEnd end_;
};

std::unique_ptr<ToolBlockParser> MakeDsmlBlockParser();
std::unique_ptr<ToolBlockParser> MakeV31BlockParser();

}  // namespace baleen::chat
