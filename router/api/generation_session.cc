#include "router/api/generation_session.h"

#include <algorithm>

#include "common/check.h"
#include "proto/sampling.pb.h"
#include "router/chat/output_parser.h"
#include "router/chat/stop_strings.h"

namespace baleen::router {
namespace {

using MarkerKind = chat::MarkerTable::Kind;

std::unique_ptr<chat::StopMatcher> MakeStopMatcher(const OutputOptions& output) {
  if (output.stop.empty()) return nullptr;
  auto strings = chat::StopStrings::Create(output.stop);
  BALEEN_CHECK(strings.ok());  // CompleteSampling bounded them
  return std::make_unique<chat::StopMatcher>(*std::move(strings), output.keep_stop);
}

// With stop strings the text is looked through before it is parsed, so it no longer comes a token
// at a time, and the parser finds its markers in the text.
std::unique_ptr<chat::OutputParser> MakeParser(const ModelInfo& model,
                                               const OutputOptions& output) {
  if (!output.chat) return nullptr;
  return std::make_unique<chat::OutputParser>(
      chat::OutputParser::Options{.style = model.chat_style,
                                  .starts_in_reasoning = output.starts_in_reasoning,
                                  .parse_tool_calls = output.expects_tool_calls},
      output.stop.empty() ? model.markers.get() : nullptr);
}

}  // namespace

GenerationSession::GenerationSession(const ModelInfo& model, const OutputOptions& output,
                                     const v1::SamplingParams& sampling)
    : model_(model),
      output_(output),
      ignore_eos_(sampling.ignore_eos()),
      stop_tokens_(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end()),
      detokenizer_(*model.tokenizer, /*skip_special=*/!output.chat && output.skip_special),
      parser_(MakeParser(model, output)),
      stop_(MakeStopMatcher(output)) {}

GenerationSession::~GenerationSession() = default;

bool GenerationSession::IsStopToken(uint32_t token) const {
  if (!ignore_eos_ && model_.IsEos(token)) return true;
  return std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end();
}

void GenerationSession::Emit(absl::string_view text, OutputDelta* delta) {
  if (text.empty()) return;
  if (parser_ != nullptr)
    parser_->PushText(text, &delta->events);
  else
    delta->text.append(text.data(), text.size());
}

void GenerationSession::Accept(uint32_t token, absl::string_view text, OutputDelta* delta) {
  if (stop_ != nullptr) {
    const bool hidden =
        output_.chat && model_.markers->Of(static_cast<int32_t>(token)).kind == MarkerKind::kHidden;
    Emit(stop_->Push(hidden ? absl::string_view() : text), delta);
    stop_matched_ = stop_->stopped();
  } else if (parser_ != nullptr) {
    parser_->PushToken(static_cast<int32_t>(token), text, &delta->events);
  } else {
    delta->text.append(text.data(), text.size());
  }
}

OutputDelta GenerationSession::Push(TokenStep step) {
  OutputDelta delta;
  delta.prompt_logprobs = std::move(step.prompt_logprobs);
  cached_tokens_ = step.cached_tokens;
  if (output_.prompt_only) step.tokens.clear();
  for (size_t i = 0; i < step.tokens.size() && !stop_matched_ && !stopped_by_token_; ++i) {
    const uint32_t token = step.tokens[i];
    const bool has_logprob = output_.logprobs && i < step.logprobs.size();
    ++completion_tokens_;
    if (IsStopToken(token)) {
      stopped_by_token_ = true;
      if (has_logprob) stop_token_ = std::move(step.logprobs[i]);
      break;
    }
    pending_tokens_.push_back(token);
    if (has_logprob) pending_logprobs_.push_back(std::move(step.logprobs[i]));
    Accept(token, detokenizer_.Push(static_cast<int32_t>(token)), &delta);
  }
  if (delta.has_text()) AttachTokens(&delta);
  return delta;
}

void GenerationSession::AttachTokens(OutputDelta* delta) {
  delta->tokens = std::exchange(pending_tokens_, {});
  delta->logprobs = std::exchange(pending_logprobs_, {});
}

OutputEnding GenerationSession::Finish(const FinishInfo* info) {
  OutputEnding ending;
  ending.info.cached_tokens = cached_tokens_;
  if (info != nullptr) ending.info = *info;
  // The dropped token may have been the end of sentence.
  if (output_.prompt_only) ending.info.reason = TokenFinish::kLength;
  if (!stop_matched_) {
    const std::string rest = detokenizer_.Finish();
    if (stop_ != nullptr) {
      Emit(stop_->Push(rest), &ending.last);
      stop_matched_ = stop_->stopped();
      Emit(stop_->Finish(), &ending.last);
    } else {
      Emit(rest, &ending.last);
    }
  }
  ending.stop_token = std::move(stop_token_);
  if (stop_matched_) ending.matched_stop = output_.stop[static_cast<size_t>(stop_->stopped_by())];
  const bool hit_length = !stop_matched_ && ending.info.reason == TokenFinish::kLength;
  ending.finish_reason = hit_length ? "length" : "stop";
  if (parser_ != nullptr) {
    ending.parsed = parser_->Finish(&ending.last.events);
    ending.finish_reason = chat::FinishReason(ending.parsed, hit_length);
  }
  AttachTokens(&ending.last);
  return ending;
}

}  // namespace baleen::router
