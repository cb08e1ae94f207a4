#pragma once

#include <cstdint>
#include <string>

#include "model/tokenizer/tokenizer.h"

namespace baleen::tokenizer {

// Turns the ids of one stream into text as they come (section 6.5 of the model's specification).
// The texts returned, put together, are Tokenizer::Decode of the ids; each is valid UTF-8. At most
// three bytes are held back: the beginning of a sequence that the next token may complete.
//
// Owner: one stream, one thread at a time. `tokenizer` must outlive it.
class Detokenizer {
 public:
  // `skip_special`: special tokens leave no trace.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that is certain with this id, often empty. Before the text of an added token, an
  // unfinished sequence is given up and becomes U+FFFD. An id without a token is nothing.
  std::string Push(int32_t id);

  // The end of the stream: U+FFFD if a sequence is unfinished, else empty. Ready for a new stream
  // afterwards.
  std::string Finish();

  // Whether bytes are held back.
  bool has_pending() const { return !pending_.empty(); }

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  std::string pending_;  // an incomplete sequence
};

}  // namespace baleen::tokenizer
