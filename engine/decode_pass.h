#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"
#include "model/forward.h"
#include "model/host_array.h"
#include "model/row_sampler.h"

namespace baleen::engine {

// What one decode step does on the device, without the host in between: main layers over the
// verify rows, a token for each of them, which drafts were right, and the next drafts (3.8). The
// host writes the inputs with one copy, waits once, and reads tokens and drafts.
//
// A step may be launched while the results of the one before are still to come: its sequences then
// follow those of that step, whose newest tokens and drafts the device takes over by itself. So the
// device goes on while the host makes something of the results.
//
// Steps have a shape: number of sequences and a bound on the keys of a row. Where the forward pass
// can be recorded, Record does so with a step of each shape (in powers of two and four) and a step
// is filled up with empty rows to the next of them; else shapes are exact.
//
// Threads: the step thread.
class DecodePass {
 public:
  struct Options {
    int max_sequences = 0;
    int drafts = 0;       // k, 0..3
    int max_context = 0;  // tokens
    int max_head_rows = 0;
    int index_topk = 0;  // shapes with fewer keys need no indexer; 0: no such bound
    bool record = true;  // where the forward pass can be
    model::Vocabulary vocabulary;
  };
  // A sequence of the step: its newest token at `position`, and drafts behind it; or a sequence of
  // the step launched before, whose results are not there: then `position` is that of its newest
  // token in that step, and token, drafts and history are not looked at.
  struct Input {
    int32_t token = 0;
    int32_t position = 0;
    std::span<const int32_t> drafts;  // at most k
    std::span<const PageId> pages;
    int32_t slots = 0;  // positions that it may use
    int follows = -1;   // its number in the step launched before; SamplingBatch::CanFollow
    const model::SamplingParams* sampling = nullptr;
    const model::TokenHistory* history = nullptr;
  };

  // The memory was planned (Bytes): that it is missing is a BALEEN_CHECK.
  DecodePass(model::Forward& forward, Options options);
  static size_t Bytes(const Options& options);

  // Once, before the first step, on all ranks of a group at the same time: it takes steps without a
  // sequence. Nothing where the forward pass cannot be recorded.
  void Record();

  // One step; makes one RunMain and k RunMtp, also without sequences. `most_sequences`: of any rank
  // of the group in this step, for an exchange that wants the same rows of all of them. Launch
  // returns when all of it has been issued, Wait when the results of the oldest step launched are
  // there. At most kInFlight steps are launched and not waited for.
  static constexpr int kInFlight = 2;
  void Launch(std::span<const Input> inputs, int most_sequences = 0);
  void Wait();

  // Results of the step last waited for, until the next Launch but one. Row 0 is that of the newest
  // token, row j that of draft j - 1; what a row behind the first wrong draft has means nothing.
  absl::StatusOr<int32_t> Chosen(int sequence, int row) const;
  std::optional<model::TokenLogprobs> Logprobs(int sequence, int row) const;
  // Draft 0 ... k - 1 after the last right token; those beyond the sequence's slots mean nothing.
  int32_t Draft(int sequence, int draft) const;

 private:
  struct Shape {
    int sequences = 0;
    int keys = 0;
  };
  // The step's lists in the backend's memory.
  struct Lists {
    model::DeviceRows rows;  // [sequences * per_sequence] verify rows
    const int32_t* slots = nullptr;
    const int32_t* follows = nullptr;
  };
  // The host's half of a step.
  struct HostSide {
    HostSide(kernels::Backend& backend, const Options& options);
    model::HostArray<int32_t> inputs;
    model::SamplingBatch sampling;
    model::HostArray<int32_t> drafts;  // [drafts, max_sequences]
    uint64_t results = 0;              // the backend's mark behind them
  };
  int per_sequence() const { return 1 + options_.drafts; }
  int RowOf(int sequence, int row) const { return sequence * per_sequence() + row; }
  const HostSide& results() const { return sides_[(waited_ - 1) % kInFlight]; }
  Shape ShapeOf(std::span<const Input> inputs, int most_sequences) const;
  void Stage(HostSide& host, std::span<const Input> inputs, const Shape& shape);
  void StageRows(HostSide& host, const Input& input, int sequence, size_t rows);
  Lists ListsOf(const Shape& shape) const;
  void Issue(const Shape& shape);
  void IssueFollowers(const Shape& shape, const Lists& lists);
  void IssueDrafts(const Shape& shape, const Lists& lists);
  void IssueDraft(int draft, const int32_t* head_rows, int count);
  void RecordShape(const Shape& shape);

  model::Forward& forward_;
  kernels::Backend& backend_;
  const Options options_;
  model::RowSampler sampler_;
  model::DeviceBlock device_;
  HostSide sides_[kInFlight];  // of step n: n % kInFlight
  uint64_t launched_ = 0, waited_ = 0;

  // Parts of device_.
  const int32_t* iota_ = nullptr;   // [max rows] 0, 1, 2 ...
  int32_t* next_tokens_ = nullptr;  // [max rows]
  int32_t* last_rows_ = nullptr;    // [max sequences]
  int32_t *draft_tokens_ = nullptr, *draft_positions_ = nullptr, *draft_sequences_ = nullptr;
  int32_t* drafts_ = nullptr;                                       // [drafts, max sequences]
  int32_t *newest_tokens_ = nullptr, *newest_positions_ = nullptr;  // [max sequences]
  int32_t* inputs_ = nullptr;                                       // as HostSide::inputs

  struct Recorded {
    Shape shape;
    std::unique_ptr<kernels::Backend::Recording> step;
  };
  std::vector<Recorded> recorded_;  // ascending keys, then sequences
};

}  // namespace baleen::engine
