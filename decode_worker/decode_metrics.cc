#include "decode_worker/decode_metrics.h"

namespace baleen::decode_worker {
namespace {

prometheus::Counter& Rejected(Metrics& m, const char* reason) {
  return m.Counter("decode_rejected_total", "Requests refused.", {{"reason", reason}});
}
prometheus::Gauge& Requests(Metrics& m, const char* state) {
  return m.Gauge("decode_requests", "Requests by state.", {{"state", state}});
}
prometheus::Gauge& Pages(Metrics& m, const char* state) {
  return m.Gauge("decode_pages", "Pages of the pool by state.", {{"state", state}});
}

}  // namespace

DecodeMetrics::DecodeMetrics(Metrics& m)
    : requests(m.Counter("decode_requests_total", "Requests accepted.")),
      rejected_full(Rejected(m, "full")),
      rejected_invalid(Rejected(m, "invalid")),
      rejected_draining(Rejected(m, "unready")),
      finished(m.Counter("decode_finished_total", "Requests that ended as asked.")),
      aborted(m.Counter("decode_aborted_total", "Requests cancelled or failed.")),
      grant_wait(m.Seconds("decode_grant_wait_seconds", "Arrival to grant.")),
      grant_to_handoff(
          m.Seconds("decode_grant_to_handoff_seconds", "Grant to all pages and the first token.")),
      handoff_to_first_step(m.Seconds("decode_handoff_to_first_step_seconds",
                                      "Hand-over complete to the end of the first step.")),
      quarantine(m.Seconds("decode_quarantine_seconds", "Pages kept for late writers.")),
      waiting(Requests(m, "waiting")),
      waiting_tokens(m.Gauge("decode_waiting_tokens", "Prompt tokens of waiting requests.")),
      granted(Requests(m, "granted")),
      ready(Requests(m, "ready")),
      running(Requests(m, "running")),
      quarantined(Requests(m, "quarantine")),
      pages_free(Pages(m, "free")),
      pages_request(Pages(m, "request")),
      pages_quarantined(Pages(m, "quarantined")),
      step_seconds(m.Seconds("decode_step_seconds", "One lockstep step.")),
      agree_seconds(m.Seconds("decode_agree_seconds", "Agreeing on a step.")),
      batch_sequences(m.Histogram("decode_batch_sequences", "Sequences of a step.",
                                  {0, 1, 2, 4, 8, 16, 32, 64, 128, 256})),
      accept_length(m.Histogram("decode_accept_length", "Tokens that one step gave one sequence.",
                                {1, 2, 3, 4})),
      tokens(m.Counter("decode_tokens_total", "Tokens made by steps.")),
      idle_steps(m.Counter("decode_idle_steps_total",
                           "Steps joined without a sequence, for the other ranks.")) {}

}  // namespace baleen::decode_worker
