#include "router/router_metrics.h"

namespace baleen::router {

RouterMetrics::RouterMetrics(Metrics& m)
    : metrics_(m),
      queue_length(m.Gauge("router_queue_length", "Requests waiting for a pair of workers")),
      queue_seconds(m.Seconds("router_queue_seconds", "From accepted to placed on a pair")),
      router_in_seconds(m.Seconds("router_in_seconds", "From request read to both legs sent")),
      router_out_seconds(
          m.Seconds("router_out_seconds", "From token received to bytes given to the socket")),
      first_token_seconds(
          m.Seconds("router_first_token_seconds", "From request read to first token received")),
      prompt_tokens(m.Counter("router_prompt_tokens_total", "Prompt tokens dispatched")),
      generated_tokens(m.Counter("router_generated_tokens_total", "Tokens received from decode")),
      retries(m.Counter("router_retries_total", "Second attempts before the first token")),
      late_events(
          m.Counter("router_late_events_total", "Worker events of attempts already given up")),
      client_gone(
          m.Counter("router_client_gone_total", "Requests aborted because the client left")),
      slow_readers_cut(m.Counter("router_slow_readers_cut_total",
                                 "Connections closed because they did not read fast enough")),
      stop_string_hits(
          m.Counter("router_stop_string_hits_total", "Requests ended by a stop string")),
      attempts(m.Gauge("router_attempts", "Running pairs of prefill and decode streams")),
      requests(m.Gauge("router_requests_running",
                       "Chats, completions and generations from their arrival to the last byte")),
      connections(m.Gauge("router_http_connections", "Open HTTP connections")) {}

void RouterMetrics::CountRequest(const std::string& endpoint, int http_status) {
  metrics_
      .Counter("router_requests_total", "Requests by endpoint and status",
               {{"endpoint", endpoint}, {"status", std::to_string(http_status)}})
      .Increment();
}

void RouterMetrics::CountRejection(const std::string& reason) {
  metrics_
      .Counter("router_rejections_total", "Requests not served, by reason", {{"reason", reason}})
      .Increment();
}

void RouterMetrics::CountUnknownField(const std::string& endpoint) {
  metrics_
      .Counter("router_unknown_fields_total", "Ignored request fields nobody knows",
               {{"endpoint", endpoint}})
      .Increment();
}

}  // namespace baleen::router
