#include "engine/decode_pass.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "common/check.h"
#include "common/kv_layout.h"
#include "common/status_macros.h"

namespace baleen::engine {
namespace {

using Hidden = model::Forward::Hidden;

constexpr int kKeyGrowth = 4;  // from one recorded bound on the keys to the next

size_t MaxRows(const DecodePass::Options& o) { return size_t(o.max_sequences) * (1 + o.drafts); }

size_t PageEntries(int sequences, int keys) { return size_t(sequences) * PagesFor(keys); }

// Tokens, positions and sequences of the rows; slots and whom they follow, of the sequences; page
// tables of the sequences and the empty one.
size_t InputWords(const DecodePass::Options& o) {
  return 3 * MaxRows(o) + 2 * size_t(o.max_sequences) +
         PageEntries(o.max_sequences + 1, o.max_context);
}

size_t Words(const DecodePass::Options& o) {
  return 2 * MaxRows(o) + size_t(6 + o.drafts) * o.max_sequences + InputWords(o);
}

model::SamplingLimits LimitsOf(const DecodePass::Options& o) {
  return {.max_rows = static_cast<int>(MaxRows(o)),
          .max_sequences = o.max_sequences,
          .vocabulary = o.vocabulary};
}

}  // namespace

size_t DecodePass::Bytes(const Options& options) {
  return Words(options) * sizeof(int32_t) + model::RowSampler::Bytes(LimitsOf(options));
}

DecodePass::HostSide::HostSide(kernels::Backend& backend, const Options& options)
    : inputs(backend, InputWords(options)),
      sampling(backend, LimitsOf(options)),
      drafts(backend, size_t(options.drafts) * options.max_sequences) {}

DecodePass::DecodePass(model::Forward& forward, Options options)
    : forward_(forward),
      backend_(forward.backend()),
      options_(std::move(options)),
      sampler_(backend_, LimitsOf(options_)),
      device_(backend_, Words(options_) * sizeof(int32_t)),
      sides_{HostSide(backend_, options_), HostSide(backend_, options_)} {
  BALEEN_CHECK_MSG(device_.data() != nullptr, "no memory for decode steps, which was planned");
  auto* at = reinterpret_cast<int32_t*>(device_.data());
  const auto next = [&at](size_t count) { return std::exchange(at, at + count); };
  int32_t* iota = next(MaxRows(options_));
  next_tokens_ = next(MaxRows(options_));
  last_rows_ = next(options_.max_sequences);
  draft_tokens_ = next(options_.max_sequences);
  draft_positions_ = next(options_.max_sequences);
  draft_sequences_ = next(options_.max_sequences);
  drafts_ = next(size_t(options_.drafts) * options_.max_sequences);
  newest_tokens_ = next(options_.max_sequences);
  newest_positions_ = next(options_.max_sequences);
  inputs_ = next(InputWords(options_));
  std::vector<int32_t> numbers(MaxRows(options_));
  std::iota(numbers.begin(), numbers.end(), 0);
  backend_.CopyIn(iota, numbers.data(), numbers.size() * sizeof(int32_t));
  backend_.Synchronize();
  iota_ = iota;
}

void DecodePass::Launch(std::span<const Input> inputs, int most_sequences) {
  BALEEN_CHECK(inputs.size() <= size_t(options_.max_sequences));
  BALEEN_CHECK(most_sequences <= options_.max_sequences);
  BALEEN_CHECK(launched_ - waited_ < kInFlight);
  HostSide& host = sides_[launched_++ % kInFlight];
  const Shape wanted = ShapeOf(inputs, most_sequences);
  const auto recorded = std::find_if(recorded_.begin(), recorded_.end(), [&](const Recorded& r) {
    return r.shape.keys >= wanted.keys && r.shape.sequences >= wanted.sequences;
  });
  const bool replay = recorded != recorded_.end() && wanted.sequences > 0;
  const Shape shape = replay ? recorded->shape : wanted;
  Stage(host, inputs, shape);
  if (replay) {
    recorded->step->Replay();
  } else {
    Issue(shape);
  }
  sampler_.Download(host.sampling);
  const size_t drafts = size_t(options_.drafts) * options_.max_sequences;
  if (drafts > 0) backend_.CopyOut(host.drafts.data(), drafts_, drafts * sizeof(int32_t));
  host.results = backend_.Mark();
}

void DecodePass::Wait() {
  BALEEN_CHECK(waited_ < launched_);
  backend_.WaitFor(sides_[waited_++ % kInFlight].results);
}

absl::StatusOr<int32_t> DecodePass::Chosen(int sequence, int row) const {
  BALEEN_RETURN_IF_ERROR(results().sampling.StatusOf(RowOf(sequence, row)));
  return results().sampling.TokenOf(RowOf(sequence, row));
}

std::optional<model::TokenLogprobs> DecodePass::Logprobs(int sequence, int row) const {
  return results().sampling.LogprobsOf(RowOf(sequence, row));
}

int32_t DecodePass::Draft(int sequence, int draft) const {
  return std::max(results().drafts[size_t(draft) * options_.max_sequences + sequence], 0);
}

// The last draft's row is at most 2k behind the newest token, which the step before may have moved
// by a row for each token.
DecodePass::Shape DecodePass::ShapeOf(std::span<const Input> inputs, int most_sequences) const {
  Shape shape = {.sequences = static_cast<int>(inputs.size())};
  if (forward_.same_rows()) shape.sequences = std::max(shape.sequences, most_sequences);
  shape.keys = std::min(shape.sequences, 1);  // of empty rows
  for (const Input& input : inputs) {
    const int newest = input.position + (input.follows < 0 ? 0 : per_sequence());
    shape.keys = std::max(shape.keys, std::min(newest + 1 + 2 * options_.drafts, int(input.slots)));
  }
  return shape;
}

// Rows are empty until StageRows or the device fills them in.
void DecodePass::Stage(HostSide& host, std::span<const Input> inputs, const Shape& shape) {
  const size_t rows = size_t(shape.sequences) * per_sequence();
  host.inputs.Assign(2 * rows, 0);
  host.inputs.Append(rows, shape.sequences);
  for (int i = 0; i < shape.sequences; ++i)
    host.inputs.Append(1, size_t(i) < inputs.size() ? inputs[i].slots : 0);
  for (int i = 0; i < shape.sequences; ++i)
    host.inputs.Append(1, size_t(i) < inputs.size() ? inputs[i].follows : -1);
  const size_t tables = host.inputs.size(), stride = PagesFor(shape.keys);
  host.inputs.Append(PageEntries(shape.sequences + 1, shape.keys), 0);
  host.sampling.Clear();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = inputs[i];
    BALEEN_CHECK(input.slots <= int64_t(input.pages.size()) * kPageTokens);
    for (size_t p = 0; p < std::min(stride, input.pages.size()); ++p)
      host.inputs[tables + i * stride + p] = input.pages[p].value;
    if (input.follows < 0) {
      StageRows(host, input, static_cast<int>(i), rows);
    } else {
      host.sampling.AddFollower(*input.sampling, per_sequence());
    }
  }
  host.sampling.AddGreedy(static_cast<int>(rows) - host.sampling.rows());
  sampler_.Upload(host.sampling);
  if (host.inputs.size() > 0) backend_.CopyIn(inputs_, host.inputs.data(), host.inputs.bytes());
}

// `rows` of the step.
void DecodePass::StageRows(HostSide& host, const Input& input, int sequence, size_t rows) {
  const size_t first = RowOf(sequence, 0);
  const size_t count = 1 + input.drafts.size();
  BALEEN_CHECK(count <= size_t(per_sequence()) && input.position + int(count) <= input.slots);
  for (size_t j = 0; j < count; ++j) {
    host.inputs[first + j] = j == 0 ? input.token : input.drafts[j - 1];
    host.inputs[rows + first + j] = input.position + static_cast<int32_t>(j);
    host.inputs[2 * rows + first + j] = sequence;
  }
  host.sampling.AddSequence(*input.sampling, *input.history, input.position + 1, input.drafts);
  host.sampling.AddGreedy(per_sequence() - static_cast<int>(count));
}

DecodePass::Lists DecodePass::ListsOf(const Shape& shape) const {
  const int rows = shape.sequences * per_sequence();
  const int32_t* slots = inputs_ + 3 * size_t(rows);
  return {.rows = {.map = {.rows = rows,
                           .positions = inputs_ + rows,
                           .sequences = inputs_ + 2 * size_t(rows),
                           .page_table = slots + 2 * size_t(shape.sequences),
                           .page_table_stride = static_cast<int>(PagesFor(shape.keys)),
                           .empty_sequence = shape.sequences},
                   .tokens = inputs_,
                   .keys = shape.keys},
          .slots = slots,
          .follows = slots + shape.sequences};
}

void DecodePass::Issue(const Shape& shape) {
  const Lists lists = ListsOf(shape);
  const int rows = lists.rows.map.rows;
  IssueFollowers(shape, lists);
  forward_.RunMain(lists.rows);
  for (int first = 0; first < rows; first += options_.max_head_rows) {
    const int count = std::min(options_.max_head_rows, rows - first);
    sampler_.Sample(forward_.Head(Hidden::kMain, iota_ + first, count), first);
  }
  backend_.AcceptDrafts({.tokens = lists.rows.tokens,
                         .chosen = sampler_.device_tokens(),
                         .rows = lists.rows.map,
                         .sequences = shape.sequences,
                         .per_sequence = per_sequence(),
                         .next_tokens = next_tokens_,
                         .last_rows = last_rows_,
                         .newest_tokens = newest_tokens_,
                         .newest_positions = newest_positions_});
  if (options_.drafts > 0) IssueDrafts(shape, lists);
}

// The inputs have just been copied in; here the device completes them.
void DecodePass::IssueFollowers(const Shape& shape, const Lists& lists) {
  int32_t* const rows = inputs_;
  const size_t count = size_t(lists.rows.map.rows);
  backend_.FollowRows({.follows = lists.follows,
                       .newest_tokens = newest_tokens_,
                       .newest_positions = newest_positions_,
                       .drafts = drafts_,
                       .drafts_stride = options_.max_sequences,
                       .slots = lists.slots,
                       .sequences = shape.sequences,
                       .per_sequence = per_sequence(),
                       .empty_sequence = shape.sequences,
                       .tokens = rows,
                       .positions = rows + count,
                       .row_sequences = rows + 2 * count,
                       .sampling = sampler_.device_rows()});
}

// The verify rows through MTP, each with the token it chose: of each sequence the row of the last
// right token gives draft 1, and the rows behind it are overwritten before they are ever read. Then
// one row a sequence for each further draft.
void DecodePass::IssueDrafts(const Shape& shape, const Lists& lists) {
  const int sequences = shape.sequences;
  model::DeviceRows rows = lists.rows;
  rows.tokens = next_tokens_;
  forward_.RunMtp(rows, Hidden::kMain, iota_);
  IssueDraft(0, last_rows_, sequences);

  rows.map.rows = sequences;
  rows.map.positions = draft_positions_;
  rows.map.sequences = draft_sequences_;
  rows.tokens = draft_tokens_;
  for (int draft = 1; draft < options_.drafts; ++draft) {
    backend_.DraftRows({.drafts = drafts_ + size_t(draft - 1) * options_.max_sequences,
                        .last_rows = last_rows_,
                        .rows = lists.rows.map,
                        .slots = lists.slots,
                        .sequences = sequences,
                        .ahead = draft,
                        .tokens = draft_tokens_,
                        .positions = draft_positions_,
                        .row_sequences = draft_sequences_});
    forward_.RunMtp(rows, Hidden::kMtp, draft == 1 ? last_rows_ : iota_);
    IssueDraft(draft, iota_, sequences);
  }
}

void DecodePass::IssueDraft(int draft, const int32_t* head_rows, int count) {
  int32_t* out = drafts_ + size_t(draft) * options_.max_sequences;
  for (int first = 0; first < count; first += options_.max_head_rows) {
    const int part = std::min(options_.max_head_rows, count - first);
    sampler_.Greedy(forward_.Head(Hidden::kMtp, head_rows + first, part), out + first);
  }
}

void DecodePass::Record() {
  if (!options_.record || !forward_.recordable()) return;
  const int most = static_cast<int>(std::bit_ceil(unsigned(options_.max_sequences)));
  for (int64_t keys = std::max(options_.index_topk, kPageTokens);; keys *= kKeyGrowth) {
    const int bound = static_cast<int>(std::min<int64_t>(keys, options_.max_context));
    for (int sequences = 1; sequences <= most; sequences *= 2) {
      RecordShape({std::min(sequences, options_.max_sequences), bound});
    }
    if (bound == options_.max_context) return;
  }
}

// Runs the step once with nothing but empty rows, so that everything is loaded that a step needs.
void DecodePass::RecordShape(const Shape& shape) {
  Stage(sides_[0], {}, shape);
  Issue(shape);
  backend_.Synchronize();
  recorded_.push_back({shape, backend_.Record([&] { Issue(shape); })});
}

}  // namespace baleen::engine
