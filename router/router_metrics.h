#pragma once

#include <string>

#include "common/clock.h"
#include "common/metrics.h"

namespace baleen::router {

// Every metric of the router in one place. Thread-safe; lives as long as `metrics`.
class RouterMetrics {
 public:
  explicit RouterMetrics(Metrics& metrics);

  void CountRequest(const std::string& endpoint, int http_status);
  void CountRejection(const std::string& reason);
  void CountUnknownField(const std::string& endpoint);
  static void Observe(prometheus::Histogram& h, Duration d) { h.Observe(Seconds(d)); }
  std::string Serialize() const { return metrics_.Serialize(); }

 private:
  Metrics& metrics_;

 public:
  prometheus::Gauge& queue_length;
  prometheus::Histogram& queue_seconds;        // accepted -> placed
  prometheus::Histogram& router_in_seconds;    // request read -> both legs dispatched
  prometheus::Histogram& router_out_seconds;   // token received -> bytes given to the socket
  prometheus::Histogram& first_token_seconds;  // request read -> first token received
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& generated_tokens;
  prometheus::Counter& retries;
  prometheus::Counter& late_events;  // of attempts already given up
  prometheus::Counter& client_gone;
  prometheus::Counter& slow_readers_cut;
  prometheus::Counter& stop_string_hits;
  prometheus::Gauge& attempts;  // running pairs of legs
  prometheus::Gauge& requests;  // for text, over either wire, from arrival to the last byte
  prometheus::Gauge& connections;
};

// Counts one in a gauge for as long as it lives.
class Counted {
 public:
  explicit Counted(prometheus::Gauge& gauge) : gauge_(gauge) { gauge_.Increment(); }
  ~Counted() { gauge_.Decrement(); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  prometheus::Gauge& gauge_;
};

}  // namespace baleen::router
