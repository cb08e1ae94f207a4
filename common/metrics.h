#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace baleen {

// Every metric of a process, prefixed "baleen_". The returned references live as long as this and
// are safe from any thread. Asking twice for the same name and labels gives the same object.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  Metrics();

  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  // Buckets in seconds from 100 us to 100 s.
  prometheus::Histogram& Seconds(const std::string& name, const std::string& help,
                                 const Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   std::vector<double> buckets, const Labels& labels = {});

  // The Prometheus text format of all of them.
  std::string Serialize() const;

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  std::shared_ptr<prometheus::Registry> registry_;
};

// Serves GET /metrics of `metrics` on host:port (port 0: chosen by the system) for as long as it
// lives. For the workers; the router serves its own.
class MetricsServer {
 public:
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Create(const Metrics& metrics,
                                                               const std::string& host, int port);
  int port() const { return port_; }

 private:
  MetricsServer() = default;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace baleen
