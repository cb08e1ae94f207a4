#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "router/api/response_writer.h"
#include "router/http/exchange.h"

namespace baleen::router {

// A parsed body and the writer of its answer.
struct PreparedGeneration {
  std::unique_ptr<const ClientRequest> request;  // the writer points to it
  std::function<std::unique_ptr<ResponseWriter>(ResponseContext)> make_writer;
  std::string id_prefix;  // of the response's id
};

// Parses a body; pure, may be slow.
using PrepareGeneration = absl::StatusOr<PreparedGeneration> (*)(const ModelInfo& model,
                                                                 absl::string_view body);

absl::StatusOr<PreparedGeneration> PrepareChat(const ModelInfo& model, absl::string_view body);
absl::StatusOr<PreparedGeneration> PrepareCompletions(const ModelInfo& model,
                                                      absl::string_view body);
absl::StatusOr<PreparedGeneration> PrepareGenerate(const ModelInfo& model, absl::string_view body);

// Serves one generating request: dispatches every prompt, turns tokens into the endpoint's answer,
// streaming or whole. A client that leaves, a stop string and a failed choice abort what runs.
boost::asio::awaitable<void> ServeGeneration(Exchange& exchange, PrepareGeneration prepare);

}  // namespace baleen::router
