#include "testing/fake_worker.h"

#include "absl/strings/str_cat.h"
#include "common/ids.h"

namespace baleen::testing {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kPoll(2);
constexpr milliseconds kReportPeriod(50);

}  // namespace

v1::Tokens Step(std::vector<uint32_t> tokens) {
  v1::Tokens step;
  step.mutable_tokens()->Add(tokens.begin(), tokens.end());
  return step;
}

std::vector<v1::Tokens> Steps(const std::vector<uint32_t>& tokens) {
  std::vector<v1::Tokens> steps;
  for (uint32_t token : tokens) steps.push_back(Step({token}));
  return steps;
}

class FakeWorker::Services final : public v1::PrefillWorker::Service,
                                   public v1::DecodeWorker::Service {
 public:
  explicit Services(FakeWorker& worker) : worker_(worker) {}
  grpc::Status Prefill(grpc::ServerContext* context, const v1::PrefillRequest* request,
                       grpc::ServerWriter<v1::PrefillEvent>* out) override {
    ++worker_.running_;
    grpc::Status status = worker_.Prefill(context, *request, out);
    --worker_.running_;
    return status;
  }
  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest* request,
                      grpc::ServerWriter<v1::DecodeEvent>* out) override {
    ++worker_.running_;
    grpc::Status status = worker_.Decode(context, *request, out);
    --worker_.running_;
    return status;
  }

 private:
  FakeWorker& worker_;
};

FakeWorker::FakeWorker(Options options)
    : options_(std::move(options)), services_(std::make_unique<Services>(*this)) {
  decode_ = [](const v1::DecodeRequest&) { return DecodeScript{.steps = Steps({1})}; };
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(static_cast<v1::PrefillWorker::Service*>(services_.get()));
  builder.RegisterService(static_cast<v1::DecodeWorker::Service*>(services_.get()));
  builder.SetMaxReceiveMessageSize(-1);
  server_ = builder.BuildAndStart();
  if (options_.prefill) reporters_.emplace_back([this] { Report(v1::PREFILL); });
  if (options_.decode) reporters_.emplace_back([this] { Report(v1::DECODE); });
}

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Kill() {
  stopping_ = true;
  Deregister();
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void FakeWorker::Deregister() {
  deregistered_ = true;
  {
    MutexLock lock(mu_);
    for (auto& [role, context] : register_contexts_) context.TryCancel();
  }
  for (std::thread& reporter : reporters_)
    if (reporter.joinable()) reporter.join();
}

v1::Registration FakeWorker::Identity(v1::Role role) const {
  v1::Registration r;
  r.set_role(role);
  r.set_group(absl::StrCat(role == v1::PREFILL ? "prefill-" : "decode-", options_.name));
  r.set_group_incarnation(RandomId());
  const int members = role == v1::PREFILL ? 1 : options_.ranks;
  for (int i = 0; i < members; ++i) {
    v1::Member* m = r.add_members();
    m->set_index(i);
    m->set_incarnation(RandomId());
    m->set_grpc_address(absl::StrCat("127.0.0.1:", port_));
    m->set_transport_address("fake");
  }
  for (const auto& [name, value] : options_.fingerprint) {
    v1::FingerprintField* f = r.add_fingerprint();
    f->set_name(name);
    f->set_value(value);
  }
  r.set_max_context(options_.max_context);
  r.set_pool_tokens(options_.pool_tokens);
  return r;
}

void FakeWorker::Report(v1::Role role) {
  const auto channel = grpc::CreateChannel(options_.router, grpc::InsecureChannelCredentials());
  grpc::ClientContext* context = nullptr;
  {
    MutexLock lock(mu_);
    context = &register_contexts_[role];
  }
  const auto stub = v1::Directory::NewStub(channel);
  const auto stream = stub->Register(context);
  v1::WorkerReport report;
  *report.mutable_registration() = Identity(role);
  stream->Write(report);
  std::thread reader([&] {
    v1::RouterCommand command;
    while (stream->Read(&command)) {
      MutexLock lock(mu_);
      commands_.push_back(command);
      if (command.has_accepted()) ++accepted_;
      if (command.has_flush_cache() && flushes_) flushed_ = command.flush_cache().number();
      if (command.has_rejected()) rejection_ = command.rejected().reason();
    }
  });
  const int members = role == v1::PREFILL ? 1 : options_.ranks;
  for (bool ok = true; ok && !deregistered_;) {
    v1::LoadReport* load = report.mutable_load();
    load->Clear();
    load->set_state(state_);
    if (role == v1::PREFILL) load->set_flushed(flushed_);
    for (int i = 0; i < members; ++i) {
      v1::MemberLoad* m = load->add_members();
      m->set_index(i);
      m->set_total_pages(1000);
      m->set_free_pages(1000);
      m->set_accept_length(1.5);
    }
    ok = stream->Write(report);
    std::this_thread::sleep_for(kReportPeriod);  // the period of a report, not a wait
  }
  stream->WritesDone();
  context->TryCancel();
  reader.join();
  stream->Finish();
}

void FakeWorker::SetDecode(std::function<DecodeScript(const v1::DecodeRequest&)> script) {
  MutexLock lock(mu_);
  decode_ = std::move(script);
}
void FakeWorker::SetDecode(DecodeScript script) {
  SetDecode([script](const v1::DecodeRequest&) { return script; });
}
void FakeWorker::SetPrefill(PrefillScript script) {
  MutexLock lock(mu_);
  prefill_ = std::move(script);
}
void FakeWorker::Release() { released_ = true; }

bool FakeWorker::accepted() const {
  MutexLock lock(mu_);
  return accepted_ == static_cast<int>(options_.prefill) + static_cast<int>(options_.decode);
}
std::string FakeWorker::rejection() const {
  MutexLock lock(mu_);
  return rejection_;
}
std::vector<v1::RouterCommand> FakeWorker::commands() const {
  MutexLock lock(mu_);
  return commands_;
}
std::vector<v1::DecodeRequest> FakeWorker::decode_requests() const {
  MutexLock lock(mu_);
  return decode_requests_;
}
std::vector<v1::PrefillRequest> FakeWorker::prefill_requests() const {
  MutexLock lock(mu_);
  return prefill_requests_;
}

bool FakeWorker::Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

bool FakeWorker::Hold(grpc::ServerContext* context, const std::function<bool()>& condition) {
  while (!condition()) {
    if (context->IsCancelled() || stopping_) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

grpc::Status FakeWorker::Decode(grpc::ServerContext* context, const v1::DecodeRequest& request,
                                grpc::ServerWriter<v1::DecodeEvent>* out) {
  DecodeScript script;
  {
    MutexLock lock(mu_);
    decode_requests_.push_back(request);
    script = decode_(request);
  }
  v1::DecodeEvent event;
  const auto cancelled = [&] {
    ++decodes_cancelled_;
    return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
  };
  if (script.wait_for_release && !Hold(context, [this] { return released_.load(); }))
    return cancelled();
  int tokens = 0;
  for (const v1::Tokens& step : script.steps) {
    *event.mutable_tokens() = step;
    tokens += step.tokens_size();
    if (!out->Write(event) || context->IsCancelled()) return cancelled();
  }
  if (!script.fail.ok()) return script.fail;
  if (script.hang) {
    Hold(context, [] { return false; });
    return cancelled();
  }
  v1::Finished* finished = event.mutable_finished();
  finished->set_reason(script.finish);
  finished->set_new_tokens(tokens);
  finished->set_cached_tokens(script.cached_tokens);
  finished->set_steps(static_cast<int>(script.steps.size()));
  out->Write(event);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Prefill(grpc::ServerContext* context, const v1::PrefillRequest& request,
                                 grpc::ServerWriter<v1::PrefillEvent>* out) {
  PrefillScript script;
  {
    MutexLock lock(mu_);
    prefill_requests_.push_back(request);
    script = prefill_;
  }
  v1::PrefillEvent event;
  event.mutable_started();
  out->Write(event);
  if (script.hand_off) {
    event.mutable_handed_off();
    out->Write(event);
  }
  if (!script.fail.ok()) return script.fail;
  if (script.hang) {
    Hold(context, [] { return false; });
    ++prefills_cancelled_;
    return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
  }
  return grpc::Status::OK;
}

}  // namespace baleen::testing
