#include "router/grpc/grpc_worker_clients.h"

#include <map>
#include <set>
#include <string>

#include "common/mutex.h"
#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"
#include "router/grpc/grpc_status.h"

namespace baleen::router {
namespace {

// Prompt logprobs of a long prompt are the largest message.
constexpr int kMaxMessageBytes = 256 << 20;
constexpr int kStreamLookaheadBytes = 16 << 20;
constexpr size_t kMaxChannels = 1024;
// A worker process that is stopped, or whose host lost its power, answers no ping: its streams end
// with Unavailable. The timeout is the default lease, so that a shorter pause fails nobody.
constexpr int kKeepaliveTimeMs = 3000;
constexpr int kKeepaliveTimeoutMs = 6000;

v1::Member ToProto(const WorkerMember& member) {
  v1::Member m;
  m.set_index(member.index);
  m.set_incarnation(member.incarnation);
  m.set_grpc_address(member.grpc_address);
  m.set_transport_address(member.transport_address);
  m.set_pid(member.pid);
  m.set_metrics_address(member.metrics_address);
  return m;
}

template <typename Request>
void SetInput(const AttemptInput& input, Request* request) {
  request->set_attempt(input.attempt.value);
  request->mutable_prompt_tokens()->Add(input.prompt->begin(), input.prompt->end());
  *request->mutable_sampling() = *input.sampling;
}

std::vector<TokenLogprob> FromProto(
    const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& from) {
  std::vector<TokenLogprob> logprobs;
  logprobs.reserve(static_cast<size_t>(from.size()));
  for (const v1::TokenLogprob& f : from) {
    TokenLogprob& t = logprobs.emplace_back();
    t.token = f.token();
    t.logprob = f.logprob();
    for (int i = 0; i < std::min(f.top_tokens_size(), f.top_logprobs_size()); ++i)
      t.top.emplace_back(f.top_tokens(i), f.top_logprobs(i));
  }
  return logprobs;
}

// The streams under way, so that they can be ended together.
class LegSet {
 public:
  void Add(std::shared_ptr<Leg> leg) {
    MutexLock lock(mu_);
    legs_.insert(std::move(leg));
  }
  void Remove(const std::shared_ptr<Leg>& leg) {
    MutexLock lock(mu_);
    legs_.erase(leg);
    if (legs_.empty()) empty_.NotifyAll();
  }
  void CancelAndWait() {
    for (const auto& leg : Copy()) leg->Cancel();
    MutexLock lock(mu_);
    while (!legs_.empty()) empty_.Wait(mu_);
  }

 private:
  std::set<std::shared_ptr<Leg>> Copy() {
    MutexLock lock(mu_);
    return legs_;
  }

  Mutex mu_;
  CondVar empty_;
  std::set<std::shared_ptr<Leg>> legs_ ABSL_GUARDED_BY(mu_);
};

// One stream of either kind. While it runs the set keeps it alive.
template <typename Event>
class StreamLeg : public Leg,
                  public grpc::ClientReadReactor<Event>,
                  public std::enable_shared_from_this<StreamLeg<Event>> {
 public:
  explicit StreamLeg(LegSet& legs) : legs_(legs) {}

  void Start() final {
    legs_.Add(this->shared_from_this());
    Open(&context_);
    this->StartRead(&event_);
    this->StartCall();
  }
  void Cancel() final { context_.TryCancel(); }

  void OnReadDone(bool ok) final {
    if (!ok) return;  // OnDone says why
    OnEvent(event_);
    this->StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) final {
    OnEnd(FromGrpc(status));
    const std::shared_ptr<Leg> self = this->shared_from_this();
    legs_.Remove(self);
  }

 protected:
  virtual void Open(grpc::ClientContext* context) = 0;
  virtual void OnEvent(const Event& event) = 0;
  virtual void OnEnd(absl::Status status) = 0;

 private:
  LegSet& legs_;
  grpc::ClientContext context_;
  Event event_;
};

class PrefillLeg final : public StreamLeg<v1::PrefillEvent> {
 public:
  PrefillLeg(LegSet& legs, const std::shared_ptr<grpc::Channel>& channel, AttemptId attempt,
             std::shared_ptr<PrefillEvents> events)
      : StreamLeg(legs),
        stub_(v1::PrefillWorker::NewStub(channel)),
        attempt_(attempt),
        events_(std::move(events)) {}
  v1::PrefillRequest request;

 protected:
  void Open(grpc::ClientContext* context) override {
    stub_->async()->Prefill(context, &request, this);
  }
  void OnEvent(const v1::PrefillEvent& event) override {
    if (event.has_started())
      events_->OnPrefillStarted(attempt_, event.started().cached_tokens());
    else if (event.has_handed_off())
      events_->OnHandedOff(attempt_);
  }
  void OnEnd(absl::Status status) override {
    std::exchange(events_, nullptr)->OnPrefillDone(attempt_, std::move(status));
  }

 private:
  const std::unique_ptr<v1::PrefillWorker::Stub> stub_;
  const AttemptId attempt_;
  std::shared_ptr<PrefillEvents> events_;
};

class DecodeLeg final : public StreamLeg<v1::DecodeEvent> {
 public:
  DecodeLeg(LegSet& legs, const std::shared_ptr<grpc::Channel>& channel, AttemptId attempt,
            std::shared_ptr<DecodeEvents> events)
      : StreamLeg(legs),
        stub_(v1::DecodeWorker::NewStub(channel)),
        attempt_(attempt),
        events_(std::move(events)) {}
  v1::DecodeRequest request;

 protected:
  void Open(grpc::ClientContext* context) override {
    stub_->async()->Decode(context, &request, this);
  }
  void OnEvent(const v1::DecodeEvent& event) override {
    if (event.has_tokens()) {
      const v1::Tokens& t = event.tokens();
      events_->OnTokens(attempt_, {.tokens = {t.tokens().begin(), t.tokens().end()},
                                   .logprobs = FromProto(t.logprobs()),
                                   .prompt_logprobs = FromProto(t.prompt_logprobs())});
    } else if (event.has_finished()) {
      const v1::Finished& f = event.finished();
      events_->OnFinished(
          attempt_, {.reason = f.reason() == v1::LENGTH ? TokenFinish::kLength : TokenFinish::kStop,
                     .new_tokens = f.new_tokens(),
                     .cached_tokens = f.cached_tokens(),
                     .steps = f.steps(),
                     .accepted_drafts = f.accepted_drafts()});
    }
  }
  void OnEnd(absl::Status status) override {
    std::exchange(events_, nullptr)->OnDecodeDone(attempt_, std::move(status));
  }

 private:
  const std::unique_ptr<v1::DecodeWorker::Stub> stub_;
  const AttemptId attempt_;
  std::shared_ptr<DecodeEvents> events_;
};

class GrpcWorkerClientsImpl final : public GrpcWorkerClients {
 public:
  ~GrpcWorkerClientsImpl() override { Shutdown(); }

  std::shared_ptr<Leg> Prefill(const GroupIdentity& prefill, const WorkerMember& decode,
                               const AttemptInput& input,
                               std::shared_ptr<PrefillEvents> events) override {
    auto leg = std::make_shared<PrefillLeg>(legs_, Channel(prefill.members.front().grpc_address),
                                            input.attempt, std::move(events));
    SetInput(input, &leg->request);
    *leg->request.mutable_decode() = ToProto(decode);
    return leg;
  }

  std::shared_ptr<Leg> Decode(const WorkerMember& rank, const GroupIdentity& prefill,
                              const AttemptInput& input,
                              std::shared_ptr<DecodeEvents> events) override {
    auto leg = std::make_shared<DecodeLeg>(legs_, Channel(rank.grpc_address), input.attempt,
                                           std::move(events));
    SetInput(input, &leg->request);
    for (const WorkerMember& stage : prefill.members) *leg->request.add_prefill() = ToProto(stage);
    return leg;
  }

  void Shutdown() override { legs_.CancelAndWait(); }

 private:
  std::shared_ptr<grpc::Channel> Channel(const std::string& address) {
    MutexLock lock(mu_);
    if (channels_.size() > kMaxChannels) channels_.clear();  // mostly of workers long gone
    std::shared_ptr<grpc::Channel>& channel = channels_[address];
    if (channel == nullptr) {
      grpc::ChannelArguments args;
      args.SetMaxReceiveMessageSize(kMaxMessageBytes);
      args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamLookaheadBytes);
      args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
      args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
      args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no bound: a long prompt is silent
      args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
      args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // how long a connect may take
      args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
      channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
    }
    return channel;
  }

  LegSet legs_;
  Mutex mu_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::unique_ptr<GrpcWorkerClients> GrpcWorkerClients::Create() {
  return std::make_unique<GrpcWorkerClientsImpl>();
}

}  // namespace baleen::router
