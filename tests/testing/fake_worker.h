#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "grpcpp/grpcpp.h"
#include "proto/worker.grpc.pb.h"

namespace baleen::testing {

// What a fake decode rank does with a request.
struct DecodeScript {
  std::vector<v1::Tokens> steps;  // sent in order
  v1::FinishReason finish = v1::STOP;
  int cached_tokens = 0;
  // Instead of finishing, after the steps:
  grpc::Status fail = grpc::Status::OK;  // ends the stream with this
  bool hang = false;                     // waits until cancelled
  bool wait_for_release = false;         // waits for FakeWorker::Release before the first step
};
// What a fake prefill group does.
struct PrefillScript {
  bool hand_off = true;                  // before it ends or hangs
  grpc::Status fail = grpc::Status::OK;  // ends the stream with this, once Decode was called
  bool hang = false;                     // waits until cancelled
};

// One step with these tokens.
v1::Tokens Step(std::vector<uint32_t> tokens);
// One step a token.
std::vector<v1::Tokens> Steps(const std::vector<uint32_t>& tokens);

// A prefill group and a decode group over real gRPC, in this process: one server with both
// services, and a Register stream for each group. Nothing is computed; the scripts say what
// happens. Threads: any.
class FakeWorker {
 public:
  struct Options {
    std::string router;  // host:port
    std::string name = "0";
    std::vector<std::pair<std::string, std::string>> fingerprint = {{"page_tokens", "64"}};
    int ranks = 1;
    int max_context = 16384;
    int64_t pool_tokens = 1 << 20;
    bool prefill = true;
    bool decode = true;
  };
  explicit FakeWorker(Options options);
  ~FakeWorker();

  void SetDecode(std::function<DecodeScript(const v1::DecodeRequest&)> script);
  void SetDecode(DecodeScript script);
  void SetPrefill(PrefillScript script);
  void Release();  // of scripts that wait for it

  // Whether the router accepted (prefill and decode); "" until it answered.
  bool accepted() const;
  std::string rejection() const;
  std::vector<v1::RouterCommand> commands() const;

  std::vector<v1::DecodeRequest> decode_requests() const;
  std::vector<v1::PrefillRequest> prefill_requests() const;
  int decodes_cancelled() const { return decodes_cancelled_; }
  int prefills_cancelled() const { return prefills_cancelled_; }
  int running() const { return running_; }  // calls of either kind
  int port() const { return port_; }

  // Waits until `condition` holds; false after 10 s.
  static bool Eventually(const std::function<bool()>& condition);

  void SetState(v1::WorkerState state) { state_ = state; }
  // Whether prefill acknowledges that it emptied its prefix cache; true at first.
  void SetFlushes(bool flushes) { flushes_ = flushes; }
  // Ends the Register streams; the services go on.
  void Deregister();
  // Ends everything at once, as a killed process.
  void Kill();

 private:
  class Services;
  void Report(v1::Role role);
  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest& request,
                      grpc::ServerWriter<v1::DecodeEvent>* out);
  grpc::Status Prefill(grpc::ServerContext* context, const v1::PrefillRequest& request,
                       grpc::ServerWriter<v1::PrefillEvent>* out);
  // Until cancelled (false) or `condition` (true).
  bool Hold(grpc::ServerContext* context, const std::function<bool()>& condition);
  v1::Registration Identity(v1::Role role) const;

  const Options options_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> deregistered_{false};
  std::atomic<bool> released_{false};
  std::atomic<v1::WorkerState> state_{v1::READY};
  std::atomic<bool> flushes_{true};
  std::atomic<uint64_t> flushed_{0};
  std::atomic<int> decodes_cancelled_{0};
  std::atomic<int> prefills_cancelled_{0};
  std::atomic<int> running_{0};
  mutable Mutex mu_;
  std::function<DecodeScript(const v1::DecodeRequest&)> decode_ ABSL_GUARDED_BY(mu_);
  PrefillScript prefill_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::DecodeRequest> decode_requests_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::PrefillRequest> prefill_requests_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::RouterCommand> commands_ ABSL_GUARDED_BY(mu_);
  int accepted_ ABSL_GUARDED_BY(mu_) = 0;
  std::string rejection_ ABSL_GUARDED_BY(mu_);
  std::map<v1::Role, grpc::ClientContext> register_contexts_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> reporters_;
};

}  // namespace baleen::testing
