#include "router/request_registry.h"

namespace baleen::router {

RequestRegistry::Entry::Entry(RequestRegistry& registry, std::string id, Handles handles)
    : registry_(registry) {
  MutexLock lock(registry_.mu_);
  it_ = registry_.requests_.emplace(std::move(id), std::move(handles));
}

RequestRegistry::Entry::~Entry() {
  MutexLock lock(registry_.mu_);
  registry_.requests_.erase(it_);
}

int RequestRegistry::Abort(const std::string& id) {
  Handles handles;
  {
    MutexLock lock(mu_);
    const auto [begin, end] = requests_.equal_range(id);
    for (auto it = begin; it != end; ++it)
      handles.insert(handles.end(), it->second.begin(), it->second.end());
  }
  for (const auto& handle : handles) handle->Abort(absl::CancelledError("aborted by request"));
  return static_cast<int>(handles.size());
}

int RequestRegistry::size() const {
  MutexLock lock(mu_);
  return static_cast<int>(requests_.size());
}

}  // namespace baleen::router
