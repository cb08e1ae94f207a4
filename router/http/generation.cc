#include "router/http/generation.h"

#include <ctime>
#include <deque>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "absl/strings/str_format.h"
#include "common/log.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/prompt_fields.h"
#include "router/http/mailbox.h"

namespace baleen::router {

namespace asio = boost::asio;

namespace {

// The choices of one request while they are generated.
class Generation {
 public:
  Generation(Exchange& exchange, PreparedGeneration prepared)
      : exchange_(exchange),
        context_(exchange.context()),
        request_(std::move(prepared.request)),
        response_id_(prepared.id_prefix + absl::StrFormat("%016x", RandomId())),
        writer_(prepared.make_writer({.id = response_id_,
                                      .created = static_cast<int64_t>(std::time(nullptr)),
                                      .model = &context_.model,
                                      .request = request_.get()})),
        mailbox_(std::make_shared<Mailbox>(exchange.connection().executor())) {}

  asio::awaitable<void> Serve();

 private:
  struct Choice {
    explicit Choice(std::unique_ptr<GenerationSession> s) : session(std::move(s)) {}
    std::unique_ptr<GenerationSession> session;
    std::shared_ptr<RequestHandle> handle;
    Usage usage;
    bool ended = false;
  };

  absl::Status Dispatch();
  // Until every choice has ended, the client left, or one failed: the failure.
  asio::awaitable<absl::Status> Run();
  absl::Status Handle(Mailbox::Event& event, ResponseWriter::Events* out);
  void Take(int index, TokenStep step, ResponseWriter::Events* out);
  void End(int index, const FinishInfo* info, ResponseWriter::Events* out);
  // So that they can be aborted under the ids the client knows: its own in the body, or else the
  // response's and the exchange's.
  std::deque<RequestRegistry::Entry> Register() const;
  void CancelAll();
  // Returns at once, but for events too large to wait behind one another.
  asio::awaitable<void> Send(const ResponseWriter::Events& events);
  asio::awaitable<void> Answer(absl::Status status);
  asio::awaitable<void> AnswerStream(const absl::Status& status);
  Usage Total() const;

  Exchange& exchange_;
  RouterContext& context_;
  const std::unique_ptr<const ClientRequest> request_;
  const std::string response_id_;
  const std::unique_ptr<ResponseWriter> writer_;
  const std::shared_ptr<Mailbox> mailbox_;
  std::vector<Choice> choices_;
  size_t running_ = 0;
};

absl::Status Generation::Dispatch() {
  auto dispatches = ToDispatchRequests(context_.model, *context_.directory.View(), *request_,
                                       exchange_.received());
  if (!dispatches.ok()) return dispatches.status();
  for (size_t i = 0; i < dispatches->size(); ++i) {
    Choice& choice = choices_.emplace_back(
        std::make_unique<GenerationSession>(context_.model, request_->output, *request_->sampling));
    choice.usage.prompt_tokens = static_cast<int64_t>((*dispatches)[i].prompt->size());
    auto handle = context_.dispatcher.Submit(
        std::move((*dispatches)[i]), std::make_shared<MailboxSink>(mailbox_, static_cast<int>(i)));
    if (!handle.ok()) return handle.status();
    choice.handle = *std::move(handle);
  }
  running_ = choices_.size();
  return absl::OkStatus();
}

std::deque<RequestRegistry::Entry> Generation::Register() const {
  const std::vector<std::string>& ids = request_->request_ids;
  const bool id_a_choice = ids.size() > 1;
  std::deque<RequestRegistry::Entry> entries;
  RequestRegistry::Handles handles;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].handle == nullptr) continue;
    handles.push_back(choices_[i].handle);
    if (id_a_choice) entries.emplace_back(context_.registry, ids[i], std::exchange(handles, {}));
  }
  if (id_a_choice) return entries;
  const std::vector<std::string> made = {response_id_, exchange_.request_id()};
  for (const std::string& id : ids.empty() ? made : ids)
    entries.emplace_back(context_.registry, id, handles);
  return entries;
}

void Generation::CancelAll() {
  for (const Choice& choice : choices_)
    if (choice.handle != nullptr && !choice.ended) choice.handle->Cancel(CancelReason::kClientGone);
}

void Generation::End(int index, const FinishInfo* info, ResponseWriter::Events* out) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  const OutputEnding ending = choice.session->Finish(info);
  choice.ended = true;
  --running_;
  choice.usage.completion_tokens = choice.session->completion_tokens();
  choice.usage.cached_tokens = ending.info.cached_tokens;
  writer_->OnEnding(index, ending, choice.usage, out);
}

void Generation::Take(int index, TokenStep step, ResponseWriter::Events* out) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  const OutputDelta delta = choice.session->Push(std::move(step));
  choice.usage.completion_tokens = choice.session->completion_tokens();
  writer_->OnDelta(index, delta, choice.usage, out);
  if (!choice.session->stop_matched()) return;
  choice.handle->Cancel(CancelReason::kStopMatched);
  End(index, nullptr, out);
}

absl::Status Generation::Handle(Mailbox::Event& event, ResponseWriter::Events* out) {
  if (choices_[static_cast<size_t>(event.choice)].ended) return absl::OkStatus();
  if (auto* step = std::get_if<TokenStep>(&event.what)) {
    const TimePoint received = step->received;
    Take(event.choice, std::move(*step), out);
    if (!out->empty())
      RouterMetrics::Observe(context_.metrics.router_out_seconds, context_.clock.Now() - received);
    return absl::OkStatus();
  }
  if (const auto* info = std::get_if<FinishInfo>(&event.what)) {
    End(event.choice, info, out);
    return absl::OkStatus();
  }
  return std::get<absl::Status>(event.what);
}

asio::awaitable<absl::Status> Generation::Run() {
  Connection& connection = exchange_.connection();
  while (running_ > 0 && !connection.gone()) {
    co_await mailbox_->Wait();
    for (Mailbox::Event& event : mailbox_->Take()) {
      if (connection.gone()) break;
      ResponseWriter::Events out;
      const absl::Status status = Handle(event, &out);
      co_await Send(out);
      if (!status.ok()) co_return status;
    }
  }
  co_return absl::OkStatus();
}

asio::awaitable<void> Generation::Send(const ResponseWriter::Events& events) {
  for (const std::string& event : events)
    if (exchange_.SendEvent(event)) co_await exchange_.connection().Flush();
}

Usage Generation::Total() const {
  Usage total;
  for (const Choice& choice : choices_) {
    total.prompt_tokens += choice.usage.prompt_tokens;
    total.completion_tokens += choice.usage.completion_tokens;
    total.cached_tokens += choice.usage.cached_tokens;
  }
  return total;
}

asio::awaitable<void> Generation::AnswerStream(const absl::Status& status) {
  ResponseWriter::Events out;
  if (status.ok()) {
    writer_->OnEnd(Total(), &out);
    out.push_back("[DONE]");
  } else {
    out.push_back(ToErrorReply(status).json);
  }
  co_await Send(out);
  exchange_.EndEvents(/*close=*/!status.ok());
}

// The connection is watched until the stream's last byte, but not during a whole reply.
asio::awaitable<void> Generation::Answer(absl::Status status) {
  Connection& connection = exchange_.connection();
  if (request_->stream && (status.ok() || exchange_.events_begun())) {
    co_await AnswerStream(status);
    co_await connection.Flush();
    co_await connection.StopWatching();
    co_return;
  }
  co_await connection.StopWatching();
  if (status.ok())
    co_await exchange_.Reply(200, "application/json", writer_->Body(Total()));
  else
    co_await exchange_.ReplyError(std::move(status));
}

asio::awaitable<void> Generation::Serve() {
  Connection& connection = exchange_.connection();
  connection.StartWatching([mailbox = mailbox_] { mailbox->Wake(); });
  absl::Status status = Dispatch();
  const std::deque<RequestRegistry::Entry> entries = Register();
  if (status.ok()) status = co_await Run();
  CancelAll();
  if (!connection.gone()) co_await Answer(std::move(status));
  if (!connection.gone()) co_return;
  if (connection.was_slow()) context_.metrics.slow_readers_cut.Increment();
  exchange_.set_status(499);
  co_await connection.StopWatching();
}

void CountUnknown(Exchange& exchange, const ClientRequest& request) {
  for (const std::string& name : request.unknown_fields) {
    exchange.context().metrics.CountUnknownField(exchange.endpoint);
    spdlog::debug("{}: unknown field \"{}\" ignored", exchange.endpoint, name);
  }
}

}  // namespace

asio::awaitable<void> ServeGeneration(Exchange& exchange, PrepareGeneration prepare) {
  absl::StatusOr<PreparedGeneration> prepared = absl::InternalError("not prepared");
  const ModelInfo& model = exchange.context().model;
  const Counted counted(exchange.context().metrics.requests);
  if (exchange.body().size() < kHeavyBodyBytes) {
    prepared = prepare(model, exchange.body());
  } else {
    co_await asio::co_spawn(
        exchange.context().heavy,
        [&]() -> asio::awaitable<void> {
          prepared = prepare(model, exchange.body());
          co_return;
        },
        asio::use_awaitable);
  }
  if (!prepared.ok()) {
    co_await exchange.ReplyError(prepared.status());
    co_return;
  }
  CountUnknown(exchange, *prepared->request);
  Generation generation(exchange, *std::move(prepared));
  co_await generation.Serve();
}

}  // namespace baleen::router
