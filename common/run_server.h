#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/status_macros.h"

namespace google::protobuf {
class Message;
}

namespace baleen {

// Reads a textproto file into `config`. An error names the file, line and field.
absl::Status ReadTextProto(const std::string& path, google::protobuf::Message* config);

// Lets a server end its own process: a broken group, a fatal device error. Any thread, once or
// more; the first error becomes the exit status of RunServer.
class ShutdownSignal {
 public:
  // SIGTERM/SIGINT mean `OkStatus`.
  void Request(absl::Status why);
  // Blocks until a signal or Request. Main thread only.
  absl::Status Wait();
  // The first error so far. Any thread.
  absl::Status status() const;
  // Blocks the signals in this and all later threads. Main thread, before any other exists.
  ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;
  ~ShutdownSignal();

 private:
  int signal_fd_ = -1;
  int event_fd_ = -1;
  struct State;
  std::unique_ptr<State> state_;
};

namespace internal {
void LogEffectiveConfig(const google::protobuf::Message& config);
}

// The life of one process: block signals, parse the config file, Server::Create(config, shutdown),
// wait for SIGTERM/SIGINT or for the server's own request, Drain, destroy. What breaks while it
// drains is an error too.
//   static absl::StatusOr<std::unique_ptr<Server>> Server::Create(const Config&, ShutdownSignal&);
//   void Server::Drain();   // finishes what is running, within the configured time
template <typename Server, typename Config>
absl::Status RunServer(const std::string& config_path) {
  ShutdownSignal shutdown;
  Config config;
  BALEEN_RETURN_IF_ERROR(ReadTextProto(config_path, &config));
  internal::LogEffectiveConfig(config);
  BALEEN_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Create(config, shutdown));
  if (shutdown.Wait().ok()) server->Drain();
  return shutdown.status();
}

}  // namespace baleen
