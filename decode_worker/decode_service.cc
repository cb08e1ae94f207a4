#include "decode_worker/decode_service.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/worker.grpc.pb.h"
#include "worker/grpc_status.h"
#include "worker/member.h"
#include "worker/sampling_proto.h"

namespace baleen::decode_worker {
namespace {

v1::FinishReason ToProto(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case engine::FinishReason::kStop:
      return v1::STOP;
    case engine::FinishReason::kLength:
      return v1::LENGTH;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void Fill(v1::TokenLogprob& out, const model::TokenLogprobs& in) {
  out.set_token(uint32_t(in.token));
  out.set_logprob(in.logprob);
  out.mutable_top_tokens()->Add(in.top_tokens.begin(), in.top_tokens.end());
  out.mutable_top_logprobs()->Add(in.top_logprobs.begin(), in.top_logprobs.end());
}

v1::DecodeEvent TokensEvent(const TokenChunk& chunk, std::optional<uint32_t> first_prompt_token) {
  v1::DecodeEvent event;
  v1::Tokens& tokens = *event.mutable_tokens();
  tokens.mutable_tokens()->Add(chunk.tokens.begin(), chunk.tokens.end());
  for (const auto& t : chunk.logprobs) Fill(*tokens.add_logprobs(), t);
  if (first_prompt_token) tokens.add_prompt_logprobs()->set_token(*first_prompt_token);
  for (const auto& t : chunk.prompt_logprobs) Fill(*tokens.add_prompt_logprobs(), t);
  return event;
}

v1::DecodeEvent FinishedEvent(const FinishInfo& info) {
  v1::DecodeEvent event;
  v1::Finished& finished = *event.mutable_finished();
  finished.set_reason(ToProto(info.reason));
  finished.set_new_tokens(info.new_tokens);
  finished.set_cached_tokens(info.cached_tokens);
  finished.set_steps(info.steps);
  finished.set_accepted_drafts(info.accepted_drafts);
  return event;
}

absl::StatusOr<DecodeJob> JobFrom(const v1::DecodeRequest& request, int token_limit) {
  for (uint32_t token : request.prompt_tokens())
    if (token >= uint32_t(token_limit))
      return absl::InvalidArgumentError(
          absl::StrCat("prompt_tokens: ", token, " is not below the vocabulary's ", token_limit));
  BALEEN_ASSIGN_OR_RETURN(model::SamplingParams sampling,
                          worker::FromProto(request.sampling(), token_limit));
  DecodeJob job = {.attempt = {request.attempt()},
                   .prompt = {request.prompt_tokens().begin(), request.prompt_tokens().end()},
                   .sampling = std::move(sampling)};
  for (const v1::Member& member : request.prefill()) {
    if (member.index() != int(job.prefill.size()))
      return absl::InvalidArgumentError("prefill: the stages must come by index, without gaps");
    if (member.incarnation() == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("prefill: stage ", member.index(), " has no incarnation"));
    job.prefill.push_back({.name = absl::StrCat("prefill/", member.index()),
                           .transport_address = member.transport_address(),
                           .incarnation = {member.incarnation()}});
  }
  return job;
}

// One Decode call. A chunk becomes up to two events, written one after the other. Threads: Write
// and End with the buffer's lock held; On* on gRPC's. gRPC frees it through OnDone; the table holds
// the buffer, which outlives it safely.
class DecodeReactor final : public grpc::ServerWriteReactor<v1::DecodeEvent>, public ChunkWriter {
 public:
  DecodeReactor(const v1::DecodeRequest& request, const std::function<void(AttemptId)>& cancel)
      : attempt_{request.attempt()}, cancel_(cancel), buffer_(std::make_shared<TokenBuffer>(this)) {
    if (request.sampling().prompt_logprobs() && !request.prompt_tokens().empty())
      first_prompt_token_ = request.prompt_tokens(0);
  }
  const std::shared_ptr<TokenBuffer>& buffer() const { return buffer_; }

  void Write(TokenChunk chunk) override {
    events_.clear();
    next_ = 0;
    if (!chunk.tokens.empty())
      events_.push_back(TokensEvent(chunk, std::exchange(first_prompt_token_, std::nullopt)));
    if (chunk.finish) events_.push_back(FinishedEvent(*chunk.finish));
    StartWrite(&events_[next_++]);
  }
  void End(const absl::Status& status) override { Finish(worker::ToGrpc(status)); }

  void OnWriteDone(bool ok) override {
    if (ok && next_ < events_.size())
      StartWrite(&events_[next_++]);
    else
      buffer_->WriteDone(ok);
  }
  void OnCancel() override {
    cancel_(attempt_);
    buffer_->Close(absl::CancelledError("the router gave the attempt up"));
  }
  void OnDone() override {
    buffer_->Detach();
    delete this;
  }

 private:
  const AttemptId attempt_;
  const std::function<void(AttemptId)>& cancel_;
  const std::shared_ptr<TokenBuffer> buffer_;
  // When the prompt's logprobs are asked for, until its place in them is sent with the first
  // tokens: it has none, and of a prompt of one token nothing else comes.
  std::optional<uint32_t> first_prompt_token_;
  // Of the chunk in flight; touched by Write, and then by OnWriteDone until WriteDone.
  std::vector<v1::DecodeEvent> events_;
  size_t next_ = 0;
};

class DecodeService final : public v1::DecodeWorker::CallbackService {
 public:
  explicit DecodeService(DecodeServiceHooks hooks) : hooks_(std::move(hooks)) {}

  grpc::ServerWriteReactor<v1::DecodeEvent>* Decode(grpc::CallbackServerContext*,
                                                    const v1::DecodeRequest* request) override {
    auto* reactor = new DecodeReactor(*request, hooks_.cancel);
    const std::shared_ptr<TokenBuffer> buffer = reactor->buffer();
    const absl::Status accepted = Submit(*request, buffer);
    if (!accepted.ok()) buffer->Close(accepted);
    return reactor;
  }

 private:
  absl::Status Submit(const v1::DecodeRequest& request, std::shared_ptr<TokenBuffer> buffer) {
    BALEEN_ASSIGN_OR_RETURN(DecodeJob job, JobFrom(request, hooks_.token_limit));
    return hooks_.submit(std::move(job), std::move(buffer));
  }
  const DecodeServiceHooks hooks_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeDecodeService(DecodeServiceHooks hooks) {
  return std::make_unique<DecodeService>(std::move(hooks));
}

}  // namespace baleen::decode_worker
