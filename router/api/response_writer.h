#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/api/client_request.h"
#include "router/api/generation_session.h"
#include "router/api/json.h"
#include "router/model_info.h"

namespace baleen::router {

struct ResponseContext {
  std::string id;       // of the response
  int64_t created = 0;  // seconds since 1970
  const ModelInfo* model = nullptr;
  const ClientRequest* request = nullptr;  // outlives the writer
};

// Writes the answer of one endpoint, for all choices of a request. Streaming: each call appends the
// JSON texts of the events to send now. Otherwise they are collected and Body gives the whole. Pure
// but for random call ids; one thread at a time.
class ResponseWriter {
 public:
  using Events = std::vector<std::string>;
  virtual ~ResponseWriter() = default;

  virtual void OnDelta(int choice, const OutputDelta& delta, const Usage& so_far,
                       Events* events) = 0;
  virtual void OnEnding(int choice, const OutputEnding& ending, const Usage& usage,
                        Events* events) = 0;
  // Streaming: after all choices ended, before [DONE].
  virtual void OnEnd(const Usage& total, Events* events) = 0;
  // Not streaming: the reply.
  virtual std::string Body(const Usage& total) = 0;
};

// OpenAI's chat completions.
std::unique_ptr<ResponseWriter> MakeChatWriter(ResponseContext context);
// OpenAI's completions, one choice a prompt.
std::unique_ptr<ResponseWriter> MakeCompletionsWriter(ResponseContext context);
// SGLang's /generate: the text of an event is all of it so far; the prompt's logprobs are in the
// first event of a choice and in its last. `batch`: the reply is a list.
std::unique_ptr<ResponseWriter> MakeGenerateWriter(ResponseContext context, bool batch);

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}
Json UsageJson(const Usage& usage);

// The text of one token: bytes that are not UTF-8 by themselves become U+FFFD.
std::string TokenText(const ModelInfo& model, uint32_t token);

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}; `top` alternatives each.
Json ChatLogprobs(const ModelInfo& model, const std::vector<TokenLogprob>& tokens, int top);

// OpenAI's older form: parallel lists, extended by every call.
struct CompletionLogprobs {
  Json tokens = Json::array();
  Json token_logprobs = Json::array();
  Json top_logprobs = Json::array();
  Json text_offset = Json::array();

  // `first_has_none`: the first token of a prompt, which nothing predicts, gets null. `*offset`
  // counts characters.
  void Append(const ModelInfo& model, const std::vector<TokenLogprob>& list, int top,
              bool first_has_none, int64_t* offset);
  Json ToJson() const;
};

}  // namespace baleen::router
