#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/worker_clients.h"

namespace baleen::router {

// How generated tokens become what the client reads.
struct OutputOptions {
  bool chat = false;                 // reasoning and tool calls are parsed out of the text
  bool starts_in_reasoning = false;  // the prompt ended inside <think>
  bool expects_tool_calls = false;
  std::vector<std::string> stop;  // the text ends before the first of these
  bool keep_stop = false;         // and includes it
  bool skip_special = true;
  // An answer of no tokens: the one that workers make at least is dropped.
  bool prompt_only = false;
  bool logprobs = false;
  int top_logprobs = 0;        // alternatives a token
  bool logprob_texts = false;  // /generate: the token's text beside its id
};

// One request of a client, whatever wire it came over: checked, tokenised, ready to dispatch. Each
// prompt is one sequence and one choice of the answer, by index.
struct ClientRequest {
  ClientRequest();

  std::vector<TokenIds> prompts;
  std::string prompt_field = "prompt";    // where the client wrote them; for errors
  std::vector<std::string> prompt_texts;  // by prompt, filled only for `echo`
  // Never null; complete but for max_new_tokens, which depends on the prompt.
  std::shared_ptr<v1::SamplingParams> sampling;
  int max_new_tokens = 0;  // wanted, of workers (1 with prompt_only); 0: as many as fit
  OutputOptions output;
  bool stream = false;
  bool include_usage = false;            // streaming: a last chunk with it
  bool continuous_usage = false;         // streaming: every chunk carries it
  bool echo = false;                     // completions: the text begins with the prompt
  std::vector<std::string> request_ids;  // the client's in the body: one for all or one a prompt
  std::vector<std::string> unknown_fields;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

}  // namespace baleen::router
