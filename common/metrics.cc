#include "common/metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace baleen {
namespace {

std::vector<double> SecondsBuckets() {
  std::vector<double> buckets;
  for (double decade = 1e-4; decade < 50; decade *= 10)
    for (double step : {1.0, 2.5, 5.0}) buckets.push_back(decade * step);
  buckets.push_back(100);
  return buckets;
}

}  // namespace

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const Labels& labels) {
  return prometheus::BuildCounter()
      .Name("baleen_" + name)
      .Help(help)
      .Register(*registry_)
      .Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const Labels& labels) {
  return prometheus::BuildGauge()
      .Name("baleen_" + name)
      .Help(help)
      .Register(*registry_)
      .Add(labels);
}

prometheus::Histogram& Metrics::Seconds(const std::string& name, const std::string& help,
                                        const Labels& labels) {
  return Histogram(name, help, SecondsBuckets(), labels);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          std::vector<double> buckets, const Labels& labels) {
  return prometheus::BuildHistogram()
      .Name("baleen_" + name)
      .Help(help)
      .Register(*registry_)
      .Add(labels, std::move(buckets));
}

std::string Metrics::Serialize() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Create(const Metrics& metrics,
                                                                     const std::string& host,
                                                                     int port) {
  std::unique_ptr<MetricsServer> server(new MetricsServer);
  // The exposer's HTTP server reports a bind failure only by exception.
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(absl::StrCat(host, ":", port), 1);
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("metrics_port: cannot listen on ", host, ":", port, ": ", e.what()));
  }
  server->port_ = server->exposer_->GetListeningPorts().front();
  server->exposer_->RegisterCollectable(metrics.registry());
  return server;
}

}  // namespace baleen
