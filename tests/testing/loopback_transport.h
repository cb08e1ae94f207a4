#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "kv_transfer/transport.h"

namespace baleen::kv_transfer {

// Connects transports of one process, in place of a network: for tests of everything above the
// wire, with faults on demand.
//
// kThreads: every transport has its own thread, as the real one. kManual: no thread at all; Run()
// of the test drives everything on the test's thread, which counts as every transport's owner
// thread, so a test decides each interleaving.
//
// Threads: all methods from any thread (kManual: one thread). Must outlive its transports.
class LoopbackHub {
 public:
  enum class Mode : uint8_t { kThreads, kManual };
  enum class OpKind : uint8_t { kPut, kFlush, kMessage };
  struct Op {
    std::string from, to;  // names given to Create
    OpKind kind;
    uint8_t message_type = 0;  // of a message with a frame of kv_transfer; else 0
    size_t bytes = 0;          // of the put, or of the message's payload
  };
  enum class Fate : uint8_t {
    kPass,
    kDrop,       // vanishes; its `done` comes with Cancelled when the endpoint closes
    kHold,       // waits for ReleaseHeld, and with it everything later on that endpoint
    kFail,       // `done` gets Unavailable, nothing arrives
    kDuplicate,  // a message arrives twice; others pass
  };
  // Asked for every operation, on the sender's thread.
  using Faults = std::function<Fate(const Op&)>;

  // `clock` drives Every in kManual and is what transports report; it must outlive the hub.
  explicit LoopbackHub(Mode mode = Mode::kThreads, const Clock& clock = SteadyClock());
  ~LoopbackHub();

  // `fence`: what FenceOf says, and what becomes of puts that reach a peer which closed its
  // endpoint: with kOwnClose they are dropped, with kPeerDeath they are written.
  std::unique_ptr<Transport> Create(const std::string& name,
                                    Transport::Fence fence = Transport::Fence::kOwnClose);

  void SetFaults(Faults faults);
  // Passes the next `operations`, then drops everything.
  void DropAfter(int operations);
  // From now on closes are not over before ReleaseHeld, as those of ends that still fetch.
  void HoldCloses();
  // Carries out what was held, in order per endpoint; it does not meet the faults again.
  void ReleaseHeld();
  // All endpoints between the two, both ways, see a wire error.
  void Break(const std::string& a, const std::string& b);

  // kManual: runs what is posted or due, until nothing is left. Returns the number of tasks run.
  size_t Run();

  struct Agent;  // one transport; private to the implementation

 private:
  struct Request;
  friend class LoopbackTransport;

  void Submit(Agent& from, EndpointId endpoint, Request request);
  void Execute(Agent& from, EndpointId endpoint, Request& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WritePut(Agent& from, Agent& to, const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Deliver(Agent& to, const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Fail(Agent& agent, EndpointId endpoint, const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Agent* Find(uint64_t agent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Add(Agent& agent);
  void Remove(Agent& agent);

  const Mode mode_;
  const Clock& clock_;
  const std::shared_ptr<BufferPool> buffers_;
  Mutex mu_;
  Faults faults_ ABSL_GUARDED_BY(mu_);
  bool hold_closes_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, Agent*> agents_ ABSL_GUARDED_BY(mu_);
};

}  // namespace baleen::kv_transfer
