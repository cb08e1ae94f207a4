#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/worker_clients.h"

namespace baleen::testing {

// WorkerClients that record what the dispatcher does and let a test play the workers, on its own
// thread. No lock: for single-threaded tests.
class FakeWorkerClients final : public router::WorkerClients {
 public:
  struct FakeLeg final : router::Leg {
    bool started = false;
    int cancels = 0;
    void Start() override { started = true; }
    void Cancel() override { ++cancels; }
  };
  struct Call {
    std::string address;
    router::AttemptInput input;
    std::shared_ptr<FakeLeg> leg = std::make_shared<FakeLeg>();
    std::shared_ptr<router::PrefillEvents> prefill;  // one of the two
    std::shared_ptr<router::DecodeEvents> decode;
    AttemptId id() const { return input.attempt; }
  };

  std::shared_ptr<router::Leg> Prefill(const router::GroupIdentity& group,
                                       const router::WorkerMember&,
                                       const router::AttemptInput& input,
                                       std::shared_ptr<router::PrefillEvents> events) override {
    prefills.push_back({.address = group.members[0].grpc_address, .input = input});
    prefills.back().prefill = std::move(events);
    return prefills.back().leg;
  }
  std::shared_ptr<router::Leg> Decode(const router::WorkerMember& rank,
                                      const router::GroupIdentity&,
                                      const router::AttemptInput& input,
                                      std::shared_ptr<router::DecodeEvents> events) override {
    decodes.push_back({.address = rank.grpc_address, .input = input});
    decodes.back().decode = std::move(events);
    return decodes.back().leg;
  }

  std::vector<Call> prefills;
  std::vector<Call> decodes;
};

}  // namespace baleen::testing
