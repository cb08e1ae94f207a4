#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/detokenizer.h"
#include "router/api/client_request.h"
#include "router/chat/output_event.h"
#include "router/generation_events.h"
#include "router/model_info.h"

namespace baleen::chat {
class OutputParser;
class StopMatcher;
}  // namespace baleen::chat

namespace baleen::router {

// What became certain with one step.
struct OutputDelta {
  std::string text;                    // completions
  chat::OutputEvents events;           // chat
  std::vector<uint32_t> tokens;        // since the last delta with any text, stop token excluded
  std::vector<TokenLogprob> logprobs;  // of those tokens, when asked for
  std::vector<TokenLogprob> prompt_logprobs;

  bool has_text() const { return !text.empty() || !events.empty(); }
};

// How one choice ended.
struct OutputEnding {
  OutputDelta last;                    // what was held back
  const char* finish_reason = "stop";  // OpenAI's
  std::string matched_stop;            // the stop string, if one ended it
  // Of the stop token, if one ended it and logprobs were asked for; it has no text.
  std::optional<TokenLogprob> stop_token;
  chat::OutputEnd parsed;  // chat
  FinishInfo info;         // after stop_matched only its cached_tokens
};

// Turns the tokens of one sequence into text, reasoning and tool calls, whatever wire they go out
// on: detokenises, drops end and special tokens, cuts at stop strings, parses the message. Token
// ids and logprobs travel with the text they belong to.
//
// Owner: one request, one thread at a time. `model` must outlive it.
class GenerationSession {
 public:
  GenerationSession(const ModelInfo& model, const OutputOptions& output,
                    const v1::SamplingParams& sampling);
  ~GenerationSession();

  OutputDelta Push(TokenStep step);
  // A stop string was found: abort the request and call Finish.
  bool stop_matched() const { return stop_matched_; }
  // `info` as the workers sent it; nullptr after stop_matched.
  OutputEnding Finish(const FinishInfo* info);

  int completion_tokens() const { return completion_tokens_; }

 private:
  bool IsStopToken(uint32_t token) const;
  // Takes a token's text through the stop strings and the parser.
  void Accept(uint32_t token, absl::string_view text, OutputDelta* delta);
  // Text that no stop string can take back.
  void Emit(absl::string_view text, OutputDelta* delta);
  // Hands the held-back tokens and logprobs out with the text they led to.
  void AttachTokens(OutputDelta* delta);

  const ModelInfo& model_;
  const OutputOptions output_;
  const bool ignore_eos_;
  const std::vector<uint32_t> stop_tokens_;
  tokenizer::Detokenizer detokenizer_;
  std::unique_ptr<chat::OutputParser> parser_;  // chat only
  std::unique_ptr<chat::StopMatcher> stop_;     // with stop strings only
  std::vector<uint32_t> pending_tokens_;
  std::vector<TokenLogprob> pending_logprobs_;
  std::optional<TokenLogprob> stop_token_;
  int completion_tokens_ = 0;
  int cached_tokens_ = 0;
  bool stop_matched_ = false;
  bool stopped_by_token_ = false;
};

}  // namespace baleen::router
