#pragma once

#include "common/metrics.h"

namespace baleen::decode_worker {

// The metrics of a decode rank, by what they tell. kv_transfer exports its own.
struct DecodeMetrics {
  explicit DecodeMetrics(Metrics& metrics);

  // A request's way.
  prometheus::Counter& requests;
  prometheus::Counter& rejected_full;      // RESOURCE_EXHAUSTED
  prometheus::Counter& rejected_invalid;   // never fits, bad parameters
  prometheus::Counter& rejected_draining;  // draining, or too many pages in quarantine
  prometheus::Counter& finished;
  prometheus::Counter& aborted;
  prometheus::Histogram& grant_wait;             // arrival to grant
  prometheus::Histogram& grant_to_handoff;       // grant to all pages and first token
  prometheus::Histogram& handoff_to_first_step;  // until the first step's end
  prometheus::Histogram& quarantine;             // abort to settled

  // Now.
  prometheus::Gauge& waiting;
  prometheus::Gauge& waiting_tokens;
  prometheus::Gauge& granted;
  prometheus::Gauge& ready;
  prometheus::Gauge& running;
  prometheus::Gauge& quarantined;  // attempts
  prometheus::Gauge& pages_free;
  prometheus::Gauge& pages_request;
  prometheus::Gauge& pages_quarantined;

  // Steps.
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& agree_seconds;  // waiting for the other ranks before a step
  prometheus::Histogram& batch_sequences;
  prometheus::Histogram& accept_length;  // tokens of one sequence's step
  prometheus::Counter& tokens;
  prometheus::Counter& idle_steps;  // joined without a sequence of its own
};

}  // namespace baleen::decode_worker
