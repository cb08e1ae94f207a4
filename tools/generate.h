#pragma once

#include <ostream>

#include "absl/status/status.h"
#include "tools/generate_options.h"

namespace baleen::tools {

// Loads the model, answers the prompt and writes the answer to `out`: its text as it comes (its ids
// without a tokenizer), or one JSON object at the end:
//   prompt_tokens  number
//   ids            generated, with the token that ended it
//   text           of ids, special tokens included, but for a stop token at the end; absent without
//                  a tokenizer
//   finish_reason  "stop" or "length"
//   logprobs       when asked for, one a token: {"id", "logprob", "top": [[id, logprob], ...]}
//   steps, tokens_per_step  verify steps, and tokens each gave (the first token comes from prefill)
//   seconds        {"load", "generate"}
absl::Status Generate(const GenerateOptions& options, std::ostream& out);

}  // namespace baleen::tools
