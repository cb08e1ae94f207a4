#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "router/dispatcher.h"

namespace baleen::router {

// Running requests by the id their client knows, so that another call can abort them. Any thread.
class RequestRegistry {
 public:
  using Handles = std::vector<std::shared_ptr<RequestHandle>>;

  // Keeps the id for as long as it lives.
  class Entry {
   public:
    Entry(RequestRegistry& registry, std::string id, Handles handles);
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    RequestRegistry& registry_;
    std::multimap<std::string, Handles>::iterator it_;
  };

  // Ends every request of that id with a Cancelled error; how many choices there were.
  int Abort(const std::string& id) ABSL_LOCKS_EXCLUDED(mu_);
  int size() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  mutable Mutex mu_;
  std::multimap<std::string, Handles> requests_ ABSL_GUARDED_BY(mu_);  // a client may repeat an id
};

}  // namespace baleen::router
