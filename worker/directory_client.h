#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/fingerprint.h"
#include "worker/member.h"

namespace baleen::worker {

enum class Role : uint8_t { kPrefill, kDecode };
enum class State : uint8_t { kStarting, kReady, kDraining };

struct GroupRegistration {
  Role role = Role::kPrefill;
  std::string group;
  Incarnation incarnation;
  std::vector<MemberInfo> members;
  Fingerprint fingerprint;
  int max_context = 0;
  int64_t pool_tokens = 0;  // per member
  int drafts = 0;
};

// Keeps a Register stream to every router: registers, reports load every 100 ms, dials again when a
// router goes away. Commands come from gRPC threads and must not block.
class DirectoryClient {
 public:
  struct Callbacks {
    std::function<std::vector<Load>()> loads;  // by member index
    std::function<void()> drain, undrain;
    // Starts to empty the prefix cache; which flush that is, counted from 1. 0: there is no cache.
    std::function<uint64_t()> flush_cache;
    std::function<uint64_t()> flushed;  // the last flush that is done
  };
  static std::unique_ptr<DirectoryClient> Create(std::vector<std::string> routers,
                                                 GroupRegistration registration,
                                                 Callbacks callbacks);
  virtual ~DirectoryClient() = default;

  // Reported at once.
  virtual void SetState(State state) = 0;
};

}  // namespace baleen::worker
