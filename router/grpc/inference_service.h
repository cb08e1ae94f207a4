#pragma once

#include <memory>

#include "router/router_context.h"

namespace grpc {
class Service;
}

namespace baleen::router {

// proto Inference, the public gRPC API: the same requests as over HTTP, parsed, dispatched and
// turned into text by the same code.
// Threads: gRPC's callback threads, and context.heavy for large requests; its tasks must have ended
// before this dies.
class InferenceService {
 public:
  // A client that lets more than `write_buffer_bytes` of one stream pile up is cut off. `context`
  // must outlive the gRPC server.
  static std::unique_ptr<InferenceService> Create(RouterContext& context,
                                                  size_t write_buffer_bytes);
  virtual ~InferenceService() = default;
  virtual grpc::Service* service() = 0;
  // From now on Generate and Chat are refused with Unavailable; running ones go on.
  virtual void StopAccepting() = 0;
};

}  // namespace baleen::router
