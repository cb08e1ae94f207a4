#include "router/grpc/inference_service.h"

#include <atomic>
#include <deque>
#include <functional>

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include "absl/strings/str_format.h"
#include "common/log.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "grpc/grpc.h"
#include "proto/inference.grpc.pb.h"
#include "router/api/api_error.h"
#include "router/api/info_json.h"
#include "router/api/prompt_fields.h"
#include "router/api/requests.h"
#include "router/grpc/grpc_status.h"
#include "router/grpc/inference_proto.h"

namespace baleen::router {
namespace {

constexpr char kTooSlow[] = "the client reads too slowly";

// One streaming call. Deltas that arrive while a write is under way wait in a queue: a slow client
// costs memory in its own call, up to a bound, and never stalls a worker's stream. Beyond the bound
// the call is cancelled, for the write under way ends only when the client reads, maybe never. The
// delta being written does not count: a single large one is no sign of a slow reader.
//
// Threads: the sink's calls come from worker client threads, On* from gRPC's. Lifetime: gRPC drops
// the reactor's share in OnDone, the dispatcher's request drops the sink's.
template <typename Response>
class StreamCall final : public GenerationSink,
                         public std::enable_shared_from_this<StreamCall<Response>> {
 public:
  class Reactor final : public grpc::ServerWriteReactor<Response> {
   public:
    explicit Reactor(std::shared_ptr<StreamCall> call)
        : call_(std::move(call)), counted_(call_->context_.metrics.requests) {}
    void OnWriteDone(bool ok) override { call_->WriteDone(ok); }
    void OnCancel() override { call_->ClientGone(); }
    void OnDone() override {
      call_->ReactorGone();
      delete this;
    }

   private:
    const std::shared_ptr<StreamCall> call_;
    const Counted counted_;
  };

  // `call` lives until the reactor's OnDone.
  StreamCall(RouterContext& context, grpc::CallbackServerContext* call, std::string endpoint,
             size_t buffer_bytes)
      : context_(context),
        call_(call),
        endpoint_(std::move(endpoint)),
        buffer_bytes_(buffer_bytes),
        received_(context.clock.Now()) {}

  // The reactor to return to gRPC.
  Reactor* Open() {
    auto* const reactor = new Reactor(this->shared_from_this());
    {
      MutexLock lock(mu_);
      reactor_ = reactor;
    }
    return reactor;
  }
  // Starts the request, on any thread; once, after Open.
  void Start(std::string id, absl::StatusOr<ClientRequest> request) {
    absl::Status status = request.ok() ? Dispatch(std::move(id), *request) : request.status();
    if (!status.ok()) OnError(std::move(status));
  }
  // Also when the client left.
  bool ended() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return end_.has_value();
  }

  void OnTokens(TokenStep step) override {
    std::shared_ptr<RequestHandle> stopped;
    bool cut = false;
    {
      MutexLock lock(mu_);
      if (end_) return;
      const OutputDelta delta = session_->Push(std::move(step));
      if (delta.has_text() || !delta.prompt_logprobs.empty()) {
        Response response;
        SetDelta(delta, &response);
        Push(std::move(response));
      }
      if (session_->stop_matched()) {
        stopped = handle_;
        stop_before_handle_ = stopped == nullptr;
        PushFinish(nullptr);
      }
      if (overflowed_) stopped = handle_;
      cut = cutting_;
      Flush();
    }
    if (stopped != nullptr) stopped->Cancel(CancelReason::kStopMatched);
    if (cut) Cut();
  }
  void OnFinished(const FinishInfo& info) override {
    bool cut = false;
    {
      MutexLock lock(mu_);
      if (end_) return;
      PushFinish(&info);
      cut = cutting_;
      Flush();
    }
    if (cut) Cut();
  }
  void OnError(absl::Status status) override {
    MutexLock lock(mu_);
    if (end_) return;
    DropPending();
    End(std::move(status));
    Flush();
  }

 private:
  struct Pending {
    Response response;
    size_t bytes;
  };

  absl::Status Dispatch(std::string id, const ClientRequest& request) {
    auto dispatches =
        ToDispatchRequests(context_.model, *context_.directory.View(), request, received_);
    if (!dispatches.ok()) return dispatches.status();
    for (size_t i = 0; i < request.unknown_fields.size(); ++i)
      context_.metrics.CountUnknownField(endpoint_);
    {
      MutexLock lock(mu_);
      if (end_) return absl::OkStatus();  // the client left meanwhile
      session_.emplace(context_.model, request.output, *request.sampling);
      usage_.prompt_tokens = static_cast<int64_t>(dispatches->front().prompt->size());
    }
    auto handle =
        context_.dispatcher.Submit(std::move(dispatches->front()), this->shared_from_this());
    if (!handle.ok()) return handle.status();
    bool gone = false;
    bool stopped = false;
    {
      MutexLock lock(mu_);
      gone = gone_;
      stopped = stop_before_handle_ || overflowed_;
      if (!end_) {
        handle_ = *handle;
        entry_ = std::make_unique<RequestRegistry::Entry>(context_.registry, std::move(id),
                                                          RequestRegistry::Handles{*handle});
      }
    }
    if (gone || stopped)
      (*handle)->Cancel(gone ? CancelReason::kClientGone : CancelReason::kStopMatched);
    return absl::OkStatus();
  }

  void WriteDone(bool ok) {
    MutexLock lock(mu_);
    writing_ = false;
    if (!ok) DropPending();
    Flush();
  }
  void ClientGone() {
    std::shared_ptr<RequestHandle> handle;
    {
      MutexLock lock(mu_);
      gone_ = true;
      handle = handle_;
      DropPending();
      if (!end_) End(absl::CancelledError("the client left"));
      Flush();
    }
    if (handle != nullptr) handle->Cancel(CancelReason::kClientGone);
  }
  void ReactorGone() {
    std::shared_ptr<RequestHandle> handle;  // holds this as its sink; goes without the lock
    MutexLock lock(mu_);
    handle.swap(handle_);
    reactor_ = nullptr;
    entry_.reset();
  }

  void PushFinish(const FinishInfo* info) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const OutputEnding ending = session_->Finish(info);
    usage_.completion_tokens = session_->completion_tokens();
    usage_.cached_tokens = ending.info.cached_tokens;
    Response response;
    SetFinish(ending, usage_, &response);
    Push(std::move(response));
    if (!end_) End(absl::OkStatus());
  }
  void Push(Response response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (end_) return;  // the delta before was one too many
    // What waited before counts, as over HTTP.
    if (pending_bytes_ > buffer_bytes_) {
      overflowed_ = cutting_ = true;
      context_.metrics.slow_readers_cut.Increment();
      DropPending();
      return End(absl::ResourceExhaustedError(kTooSlow));
    }
    const size_t bytes = response.ByteSizeLong();
    pending_bytes_ += bytes;
    pending_.push_back({std::move(response), bytes});
  }
  void DropPending() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    pending_.clear();
    pending_bytes_ = 0;
  }
  // Without the lock, because gRPC may call back from inside; Flush does not finish the call
  // before. Not TryCancel: that tells the client that it was cancelled, not why.
  void Cut() ABSL_LOCKS_EXCLUDED(mu_) {
    grpc_call_cancel_with_status(call_->c_call(), GRPC_STATUS_RESOURCE_EXHAUSTED, kTooSlow,
                                 nullptr);
    MutexLock lock(mu_);
    cutting_ = false;
    Flush();
  }
  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    context_.metrics.CountRequest(endpoint_, status.ok() ? 200 : ToErrorReply(status).http_status);
    end_ = std::move(status);
  }
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_ || reactor_ == nullptr) return;
    if (!pending_.empty() && !gone_) {
      in_flight_ = std::move(pending_.front().response);
      pending_bytes_ -= pending_.front().bytes;
      pending_.pop_front();
      writing_ = true;
      reactor_->StartWrite(&in_flight_);
    } else if (end_ && !cutting_) {
      finished_ = true;
      reactor_->Finish(ToGrpc(*end_));
    }
  }

  RouterContext& context_;
  grpc::CallbackServerContext* const call_;
  const std::string endpoint_;
  const size_t buffer_bytes_;
  const TimePoint received_;
  Mutex mu_;
  Reactor* reactor_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::optional<GenerationSession> session_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<RequestHandle> handle_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<RequestRegistry::Entry> entry_ ABSL_GUARDED_BY(mu_);
  Usage usage_ ABSL_GUARDED_BY(mu_);
  Response in_flight_ ABSL_GUARDED_BY(mu_);  // gRPC reads it while writing_
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mu_);
  size_t pending_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  bool overflowed_ ABSL_GUARDED_BY(mu_) = false;
  bool cutting_ ABSL_GUARDED_BY(mu_) = false;  // overflowed, and not cancelled yet
  bool stop_before_handle_ ABSL_GUARDED_BY(mu_) = false;
};

class InferenceServiceImpl final : public InferenceService, public v1::Inference::CallbackService {
 public:
  InferenceServiceImpl(RouterContext& context, size_t write_buffer_bytes)
      : context_(context), write_buffer_bytes_(write_buffer_bytes) {}
  grpc::Service* service() override { return this; }
  void StopAccepting() override { accepting_ = false; }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* call, const v1::GenerateRequest* request) override {
    return BeginStream<v1::GenerateResponse>(call, "grpc.Generate", *request);
  }
  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(grpc::CallbackServerContext* call,
                                                   const v1::ChatRequest* request) override {
    return BeginStream<v1::ChatResponse>(call, "grpc.Chat", *request);
  }

  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* call,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override {
    response->set_aborted(context_.registry.Abort(request->request_id()));
    return Reply(call, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Models(grpc::CallbackServerContext* call, const v1::ModelsRequest*,
                                   v1::ModelsResponse* response) override {
    v1::Model* model = response->add_models();
    model->set_id(context_.model.name);
    model->set_max_model_len(MaxContext());
    return Reply(call, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return ReplyWith(call, request->ByteSizeLong(),
                     [=, this] { return TokenizeInto(*request, response); });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return ReplyWith(call, request->ByteSizeLong(),
                     [=, this] { return DetokenizeInto(*request, response); });
  }

  grpc::ServerUnaryReactor* ServerInfo(grpc::CallbackServerContext* call,
                                       const v1::ServerInfoRequest*,
                                       v1::ServerInfoResponse* response) override {
    const auto view = context_.directory.View();
    response->set_version(kVersion);
    response->set_model(context_.model.name);
    response->set_max_model_len(MaxContext());
    response->set_ready(view->HasReadyPair() && !context_.draining);
    response->set_workers_json(Dump(WorkersJson(*view)));
    return Reply(call, absl::OkStatus());
  }

 private:
  template <typename Response, typename Request>
  grpc::ServerWriteReactor<Response>* BeginStream(grpc::CallbackServerContext* context,
                                                  const char* endpoint, const Request& request) {
    auto call =
        std::make_shared<StreamCall<Response>>(context_, context, endpoint, write_buffer_bytes_);
    auto* const reactor = call->Open();
    if (!accepting_)
      call->OnError(absl::UnavailableError("the router is shutting down"));
    else if (request.ByteSizeLong() < kHeavyBodyBytes)
      StartStream(*call, request);
    else  // with a copy: gRPC's goes when the client does
      boost::asio::post(context_.heavy, [this, call, request] { StartStream(*call, request); });
    return reactor;
  }

  template <typename Response, typename Request>
  void StartStream(StreamCall<Response>& call, const Request& request) {
    if (call.ended()) return;
    std::string id = request.request_id();
    if (id.empty()) id = absl::StrFormat("grpc-%016x", RandomId());
    call.Start(std::move(id), FromProto(context_.model, request));
  }

  absl::Status TokenizeInto(const v1::TokenizeRequest& request,
                            v1::TokenizeResponse* response) const {
    BALEEN_ASSIGN_OR_RETURN(const TokenIds ids, TokenizeInput(request));
    response->mutable_tokens()->Add(ids->begin(), ids->end());
    response->set_max_model_len(MaxContext());
    return absl::OkStatus();
  }

  absl::Status DetokenizeInto(const v1::DetokenizeRequest& request,
                              v1::DetokenizeResponse* response) const {
    if (request.tokens().empty()) return absl::OkStatus();
    BALEEN_ASSIGN_OR_RETURN(
        const TokenIds ids,
        PromptFromIds(context_.model,
                      std::vector<uint32_t>(request.tokens().begin(), request.tokens().end()),
                      "tokens"));
    response->set_text(context_.model.tokenizer->Decode(
        std::vector<int32_t>(ids->begin(), ids->end()), request.skip_special_tokens()));
    return absl::OkStatus();
  }

  absl::StatusOr<TokenIds> TokenizeInput(const v1::TokenizeRequest& request) const {
    if (!request.has_chat_json()) return EncodePrompt(context_.model, request.prompt());
    BALEEN_ASSIGN_OR_RETURN(const Json body, ParseBody(request.chat_json()));
    return ParseTokenizeRequest(context_.model, body);
  }

  int MaxContext() const {
    return context_.directory.View()->MaxContext(context_.model.max_context);
  }

  // `answer` fills in the response; for a large request on the thread for them. Both messages live
  // until Finish, whether the client waits or not.
  grpc::ServerUnaryReactor* ReplyWith(grpc::CallbackServerContext* call, size_t request_bytes,
                                      std::function<absl::Status()> answer) {
    if (request_bytes < kHeavyBodyBytes) return Reply(call, answer());
    grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
    boost::asio::post(context_.heavy,
                      [reactor, answer = std::move(answer)] { reactor->Finish(ToGrpc(answer())); });
    return reactor;
  }

  static grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* call,
                                         const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  RouterContext& context_;
  const size_t write_buffer_bytes_;
  std::atomic<bool> accepting_{true};
};

}  // namespace

std::unique_ptr<InferenceService> InferenceService::Create(RouterContext& context,
                                                           size_t write_buffer_bytes) {
  return std::make_unique<InferenceServiceImpl>(context, write_buffer_bytes);
}

}  // namespace baleen::router
