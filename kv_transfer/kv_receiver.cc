#include "kv_transfer/kv_receiver.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kv_transfer/grant_state.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(20);

uint32_t Millis(Duration d) {
  return uint32_t(std::chrono::duration_cast<std::chrono::milliseconds>(d).count());
}

std::string ComponentNames(uint32_t components) {
  std::string names;
  const auto add = [&](uint32_t bit, const char* name) {
    if (components & bit) absl::StrAppend(&names, names.empty() ? "" : "+", name);
  };
  add(kComponentLatent, "latent");
  add(kComponentIndex, "index");
  add(kComponentDraft, "draft");
  return names;
}

}  // namespace

class KvReceiver::Core : public std::enable_shared_from_this<KvReceiver::Core> {
 public:
  Core(LinkTable& links, const KvReceiverOptions& options, Callbacks callbacks, Metrics& metrics);
  void Start();
  void Grant(GrantRequest request);
  void Release(AttemptId id);
  void Cancel(AttemptId id, const absl::Status& reason);
  Counts counts() const;

  LinkTable& links_;

 private:
  struct Writer {  // one stage
    Stage stage;
    std::optional<LinkId> link;
    std::vector<bool> chunks;  // by number, those that came
    std::vector<bool> pages;   // of the whole prompt, those that came
    int missing = 0;
    bool settled = false;              // writes nothing any more
    std::optional<LinkId> drained_on;  // where Drain went last
    bool acked = false;                // DrainAck came over that link
    bool fenced = false;               // did not answer Drain: its link was closed
  };
  struct Record {
    GrantRequest request;
    GrantId grant;
    GrantState state = GrantState::kGranted;
    std::vector<Writer> writers;
    std::optional<HandoffRecord> handoff;
    TimePoint renewed, progress, quarantine_start;
    int total_pages = 0;
  };

  void OnChunkDone(LinkId link, const ChunkDone& chunk);
  void OnHandoff(LinkId link, const Handoff& handoff);
  void OnAbort(LinkId link, const Abort& abort);
  void OnDrainAck(LinkId link, const DrainAck& ack);
  void OnLink(LinkId link, LinkState state, const absl::Status& reason);

  absl::Status OpenWriters(Record& record);
  void SendGrants(Record& record);
  absl::Status CheckChunk(const Record& record, const Writer& writer, const ChunkDone& chunk) const;
  absl::Status CheckTiling(const Record& record) const;
  void MaybeReady(Record& record);
  void Fail(Record& record, const absl::Status& why, bool report);
  void DrainWriters(Record& record);
  void MaybeSettled(Record& record);
  void Forget(Record& record);
  void Apply(Record& record, GrantEvent event);
  void CountState(const Record& record, int by);
  bool Tick();
  void TickRecord(Record& record, TimePoint now);
  TimePoint Moved(const Writer& writer, TimePoint since) const;
  bool Stuck(const Record& record, TimePoint now) const;
  void FenceSilent(Record& record, TimePoint now);
  Record* Find(AttemptId id);
  Record* FindGrant(GrantId grant);
  Writer* FindWriter(Record& record, LinkId link, uint32_t stage);
  TimePoint Now() const { return links_.transport().clock().Now(); }

  const KvReceiverOptions options_;
  const Callbacks callbacks_;
  Metrics& metrics_;
  std::map<uint64_t, Record> records_;    // by attempt
  std::map<uint64_t, AttemptId> grants_;  // by grant
  std::map<uint64_t, TimePoint> landed_;  // by link, when a chunk of any attempt last landed

  prometheus::Counter& bytes_;
  std::array<prometheus::Gauge*, kGrantStates.size()> grants_in_{};  // by state but kDone
  prometheus::Gauge& quarantined_pages_;
};

KvReceiver::Core::Core(LinkTable& links, const KvReceiverOptions& options, Callbacks callbacks,
                       Metrics& metrics)
    : links_(links),
      options_(options),
      callbacks_(std::move(callbacks)),
      metrics_(metrics),
      bytes_(metrics.Counter("transfer_received_bytes_total", "Page bytes prefill has shown")),
      quarantined_pages_(
          metrics.Gauge("transfer_quarantined_pages",
                        "Pages a writer might still touch after its attempt ended")) {
  for (GrantState state : kGrantStates)
    if (state != GrantState::kDone)
      grants_in_[size_t(state)] =
          &metrics.Gauge("transfer_grants", "Grants by state", {{"state", Name(state)}});
}

void KvReceiver::Core::Start() {
  links_.SetHandler(weak_from_this(), &Core::OnChunkDone);
  links_.SetHandler(weak_from_this(), &Core::OnHandoff);
  links_.SetHandler(weak_from_this(), &Core::OnAbort);
  links_.SetHandler(weak_from_this(), &Core::OnDrainAck);
  links_.AddObserver(
      [weak = weak_from_this()](LinkId link, LinkState state, const absl::Status& reason) {
        if (auto core = weak.lock()) core->OnLink(link, state, reason);
      });
  links_.transport().Every(kTick, [weak = weak_from_this()] {
    auto core = weak.lock();
    return core != nullptr && core->Tick();
  });
}

// ---- what the worker says ----------------------------------------------------------------------

void KvReceiver::Core::Grant(GrantRequest request) {
  BALEEN_CHECK(records_.count(request.attempt.value) == 0 && !request.stages.empty());
  Record& record = records_[request.attempt.value];
  record.request = std::move(request);
  record.grant = GrantId{RandomId()};
  grants_[record.grant.value] = record.request.attempt;
  record.total_pages = int(record.request.pages.size());
  record.progress = Now();
  CountState(record, 1);
  const absl::Status opened = OpenWriters(record);
  if (!opened.ok()) return Fail(record, opened, /*report=*/true);
  SendGrants(record);
}

absl::Status KvReceiver::Core::OpenWriters(Record& record) {
  for (const Stage& stage : record.request.stages) {
    Writer& writer = record.writers.emplace_back();
    writer.stage = stage;
    writer.pages.assign(size_t(record.total_pages), false);
    writer.missing = int(record.request.pages.size());
    writer.settled = true;  // until a grant goes out to it
  }
  for (Writer& writer : record.writers) {
    BALEEN_ASSIGN_OR_RETURN(writer.link, links_.Connect(writer.stage.peer));
    writer.settled = false;
  }
  return absl::OkStatus();
}

void KvReceiver::Core::SendGrants(Record& record) {
  record.renewed = Now();
  kv_transfer::Grant grant = {.grant = record.grant,
                              .attempt = record.request.attempt,
                              .ttl_ms = Millis(options_.grant_ttl),
                              .stages = uint32_t(record.writers.size())};
  for (PageId page : record.request.pages) grant.pages.push_back(uint32_t(page.value));
  for (size_t i = 0; i < record.writers.size(); ++i) {
    grant.stage = uint32_t(i);
    if (record.writers[i].link) links_.SendMessage(*record.writers[i].link, grant);
  }
}

void KvReceiver::Core::Release(AttemptId id) {
  Record* record = Find(id);
  if (record == nullptr || record->state != GrantState::kReady) return;
  for (const Writer& writer : record->writers)
    links_.SendMessage(*writer.link, kv_transfer::Release{.grant = record->grant, .attempt = id});
  Apply(*record, GrantEvent::kTaken);
  Forget(*record);
}

void KvReceiver::Core::Cancel(AttemptId id, const absl::Status& reason) {
  Record* record = Find(id);
  if (record == nullptr) return;
  if (record->state == GrantState::kReady) {  // all is here: nobody writes any more
    for (const Writer& writer : record->writers)
      links_.SendMessage(*writer.link, GrantRevoke{.grant = record->grant});
    Apply(*record, GrantEvent::kTaken);
    Forget(*record);
    return callbacks_.settled(id);
  }
  Fail(*record, reason, /*report=*/false);
}

// ---- what prefill says -------------------------------------------------------------------------

void KvReceiver::Core::OnChunkDone(LinkId link, const ChunkDone& chunk) {
  landed_[link.value] = Now();
  Record* record = FindGrant(chunk.grant);
  if (record == nullptr) return links_.Drop("late_chunk");
  Writer* writer = FindWriter(*record, link, chunk.stage);
  if (writer == nullptr) return links_.Drop("wrong_writer");
  if (!Arriving(record->state)) return links_.Drop("late_chunk");
  if (const absl::Status good = CheckChunk(*record, *writer, chunk); !good.ok())
    return Fail(*record, good, /*report=*/true);
  if (chunk.chunk >= writer->chunks.size()) writer->chunks.resize(chunk.chunk + 1);
  if (writer->chunks[chunk.chunk]) return links_.Drop("repeated");
  writer->chunks[chunk.chunk] = true;
  record->progress = Now();
  for (uint32_t page = chunk.first_page; page < chunk.first_page + chunk.page_count; ++page) {
    if (writer->pages[page]) continue;
    writer->pages[page] = true;
    --writer->missing;
  }
  bytes_.Increment(double(chunk.bytes));
  if (record->state == GrantState::kGranted) Apply(*record, GrantEvent::kFirstChunk);
  MaybeReady(*record);
}

absl::Status KvReceiver::Core::CheckChunk(const Record& record, const Writer& writer,
                                          const ChunkDone& chunk) const {
  const uint64_t end = uint64_t{chunk.first_page} + chunk.page_count;
  if (end > uint64_t(record.total_pages) || chunk.page_count == 0 ||
      chunk.chunk >= uint32_t(record.total_pages))
    return absl::OutOfRangeError(absl::StrCat("KV_INCOMPLETE: chunk ", chunk.chunk, " of stage ",
                                              chunk.stage, " shows pages ", chunk.first_page,
                                              " to ", end, " of ", record.total_pages));
  const auto info = links_.Info(*writer.link);
  const uint64_t want = info && info->pool ? chunk.page_count * info->pool->page_bytes : 0;
  if (chunk.bytes != want)
    return absl::DataLossError(absl::StrCat("KV_INCOMPLETE: chunk ", chunk.chunk, " of stage ",
                                            chunk.stage, " has ", chunk.bytes, " bytes, its ",
                                            chunk.page_count, " pages have ", want));
  const uint32_t absent = writer.stage.components & ~chunk.components;
  if (absent == 0) return absl::OkStatus();
  metrics_
      .Counter("transfer_missing_component_total", "Chunks without a component",
               {{"component", ComponentNames(absent)}})
      .Increment();
  return absl::DataLossError(absl::StrCat(
      "KV_INCOMPLETE: ", ComponentNames(absent), " missing in pages ", chunk.first_page, " to ",
      end, " of stage ", chunk.stage, " (", writer.stage.peer.name, ")"));
}

void KvReceiver::Core::OnHandoff(LinkId link, const Handoff& handoff) {
  Record* record = FindGrant(handoff.grant);
  if (record == nullptr || record->request.attempt != handoff.attempt)
    return links_.Drop("late_handoff");
  if (FindWriter(*record, link, handoff.stage) != &record->writers.back())
    return links_.Drop("wrong_writer");
  if (record->handoff || !Arriving(record->state))
    return links_.Drop(record->handoff ? "repeated" : "late_handoff");
  record->progress = Now();
  if (int(handoff.pages) != record->total_pages)
    return Fail(*record,
                absl::DataLossError(absl::StrCat("KV_INCOMPLETE: hand-off of ", handoff.pages,
                                                 " pages, granted ", record->total_pages)),
                true);
  if (record->request.prompt_hash != 0 && record->request.prompt_hash != handoff.record.prompt_hash)
    return Fail(*record,
                absl::DataLossError("KV_INCOMPLETE: prefill computed another prompt (hash)"), true);
  record->handoff = handoff.record;
  MaybeReady(*record);
}

void KvReceiver::Core::OnAbort(LinkId link, const Abort& abort) {
  Record* record = FindGrant(abort.grant);
  if (record == nullptr || record->request.attempt != abort.attempt)
    return links_.Drop("late_abort");
  const bool writes = std::any_of(record->writers.begin(), record->writers.end(),
                                  [link](const Writer& w) { return w.link == link; });
  if (!writes) return links_.Drop("wrong_writer");
  const auto info = links_.Info(link);
  const auto code = abort.code == 0 ? absl::StatusCode::kUnknown : absl::StatusCode(abort.code);
  Fail(*record,
       absl::Status(code, absl::StrCat(info ? info->peer_name : "prefill", ": ", abort.message)),
       /*report=*/true);
}

void KvReceiver::Core::OnDrainAck(LinkId link, const DrainAck& ack) {
  Record* record = FindGrant(ack.grant);
  if (record == nullptr || record->state != GrantState::kQuarantine)
    return links_.Drop("late_drain_ack");
  if (ack.stage >= record->writers.size()) return links_.Drop("wrong_writer");
  Writer& writer = record->writers[ack.stage];
  if (writer.drained_on != link) return links_.Drop("wrong_writer");
  writer.acked = true;
  MaybeSettled(*record);
}

void KvReceiver::Core::OnLink(LinkId link, LinkState state, const absl::Status& reason) {
  if (state != LinkState::kFenced) return;
  landed_.erase(link.value);
  std::vector<AttemptId> affected;
  for (const auto& [id, record] : records_)
    for (const Writer& writer : record.writers)
      if (writer.link == link) affected.push_back(AttemptId{id});
  // Ready attempts have everything: what becomes of prefill does not concern them.
  for (AttemptId id : affected)
    if (Record* record = Find(id))
      if (Arriving(record->state))
        Fail(*record,
             absl::Status(reason.code() == absl::StatusCode::kFailedPrecondition
                              ? absl::StatusCode::kFailedPrecondition
                              : absl::StatusCode::kUnavailable,
                          reason.message()),
             /*report=*/true);
}

// ---- complete ----------------------------------------------------------------------------------

absl::Status KvReceiver::Core::CheckTiling(const Record& record) const {
  uint64_t at = 0;
  for (const Writer& writer : record.writers) {
    const auto info = links_.Info(*writer.link);
    if (!info || !info->pool)
      return absl::DataLossError(
          absl::StrCat("KV_INCOMPLETE: ", writer.stage.peer.name, " says nothing of its pages"));
    if (info->pool->page_offset != at)
      return absl::DataLossError(absl::StrCat("KV_INCOMPLETE: share of ", writer.stage.peer.name,
                                              " begins at byte ", info->pool->page_offset,
                                              " of a page, the stages before it end at ", at));
    at += info->pool->page_bytes;
  }
  if (at != links_.options().pool.page_bytes)
    return absl::DataLossError(absl::StrCat("KV_INCOMPLETE: the stages fill ", at, " of ",
                                            links_.options().pool.page_bytes, " bytes of a page"));
  return absl::OkStatus();
}

void KvReceiver::Core::MaybeReady(Record& record) {
  if (!record.handoff) return;
  for (const Writer& writer : record.writers)
    if (writer.missing > 0) return;
  if (const absl::Status tiling = CheckTiling(record); !tiling.ok())
    return Fail(record, tiling, /*report=*/true);
  Apply(record, GrantEvent::kManifestComplete);
  const AttemptId id = record.request.attempt;
  callbacks_.ready(id, *std::exchange(record.handoff, std::nullopt));
}

// ---- ends --------------------------------------------------------------------------------------

void KvReceiver::Core::Fail(Record& record, const absl::Status& why, bool report) {
  if (!Arriving(record.state)) return;
  Apply(record, GrantEvent::kFailed);
  record.quarantine_start = Now();
  const AttemptId id = record.request.attempt;
  DrainWriters(record);
  if (report) callbacks_.failed(id, why);
  if (Record* still = Find(id)) MaybeSettled(*still);
}

// Asks every writer that may still write to stop, over the link it has now.
void KvReceiver::Core::DrainWriters(Record& record) {
  for (Writer& writer : record.writers) {
    if (writer.settled) continue;
    const auto link = links_.Find(writer.stage.peer.incarnation);
    if (!link || writer.drained_on == link) continue;
    writer.drained_on = link;
    writer.acked = false;
    links_.SendMessage(*link, Drain{.grant = record.grant, .attempt = record.request.attempt});
  }
}

void KvReceiver::Core::MaybeSettled(Record& record) {
  if (record.state != GrantState::kQuarantine) return;
  bool all = true;
  for (Writer& writer : record.writers) {
    if (writer.settled) continue;
    // An ack says that the peer writes nothing; over another link than the grant's it says nothing
    // of our own fetches, which go on until our end of that one is closed.
    const bool drained =
        writer.acked && (writer.drained_on == writer.link || links_.Closed(*writer.link));
    writer.settled = drained || links_.Settled(*writer.link);
    all &= writer.settled;
  }
  if (!all) return;
  Apply(record, GrantEvent::kWritersSettled);
  const AttemptId id = record.request.attempt;
  Forget(record);
  callbacks_.settled(id);
}

void KvReceiver::Core::Forget(Record& record) {
  CountState(record, -1);
  grants_.erase(record.grant.value);
  records_.erase(record.request.attempt.value);
}

void KvReceiver::Core::Apply(Record& record, GrantEvent event) {
  const auto next = Next(record.state, event);
  BALEEN_CHECK_MSG(next.has_value(), Name(record.state));
  CountState(record, -1);
  record.state = *next;
  CountState(record, 1);
}

void KvReceiver::Core::CountState(const Record& record, int by) {
  if (record.state == GrantState::kDone) return;
  grants_in_[size_t(record.state)]->Increment(by);
  if (record.state == GrantState::kQuarantine)
    quarantined_pages_.Increment(double(by) * record.total_pages);
}

KvReceiver::Counts KvReceiver::Core::counts() const {
  const auto in = [this](GrantState s) { return int(grants_in_[size_t(s)]->Value()); };
  return {.granted = in(GrantState::kGranted),
          .receiving = in(GrantState::kReceiving),
          .ready = in(GrantState::kReady),
          .quarantined = in(GrantState::kQuarantine),
          .quarantined_pages = int(quarantined_pages_.Value())};
}

bool KvReceiver::Core::Tick() {
  const TimePoint now = Now();
  std::vector<AttemptId> ids;
  for (const auto& [id, record] : records_) ids.push_back(AttemptId{id});
  for (AttemptId id : ids)
    if (Record* record = Find(id)) TickRecord(*record, now);
  return true;
}

void KvReceiver::Core::TickRecord(Record& record, TimePoint now) {
  if (record.state == GrantState::kQuarantine) {
    DrainWriters(record);  // a writer may have come back over a new link
    const AttemptId id = record.request.attempt;
    FenceSilent(record, now);
    if (Record* still = Find(id)) MaybeSettled(*still);
    return;
  }
  if (!Arriving(record.state)) return;
  if (record.handoff && Stuck(record, now))
    return Fail(record, absl::DeadlineExceededError("pages stopped arriving after the hand-off"),
                /*report=*/true);
  if (now - record.renewed > options_.grant_ttl / 3) SendGrants(record);
}

// When a chunk of any attempt last landed over the writer's link, `since` at the earliest: over a
// slow network a writer's own chunks and answers wait behind those in front of them.
TimePoint KvReceiver::Core::Moved(const Writer& writer, TimePoint since) const {
  const auto landed = landed_.find(writer.link->value);
  return landed == landed_.end() ? since : std::max(since, landed->second);
}

bool KvReceiver::Core::Stuck(const Record& record, TimePoint now) const {
  return std::any_of(record.writers.begin(), record.writers.end(), [&](const Writer& writer) {
    return writer.missing > 0 && now - Moved(writer, record.progress) > options_.transfer_timeout;
  });
}

void KvReceiver::Core::FenceSilent(Record& record, TimePoint now) {
  std::vector<LinkId> silent;
  for (Writer& writer : record.writers) {
    if (writer.settled || writer.fenced) continue;
    if (now - Moved(writer, record.quarantine_start) <= options_.drain_ack_timeout) continue;
    writer.fenced = true;
    silent.push_back(*writer.link);
  }
  for (LinkId link : silent) links_.Close(link, absl::DeadlineExceededError("no answer to Drain"));
}

KvReceiver::Core::Record* KvReceiver::Core::Find(AttemptId id) {
  const auto it = records_.find(id.value);
  return it == records_.end() ? nullptr : &it->second;
}

KvReceiver::Core::Record* KvReceiver::Core::FindGrant(GrantId grant) {
  const auto it = grants_.find(grant.value);
  return it == grants_.end() ? nullptr : Find(it->second);
}

KvReceiver::Core::Writer* KvReceiver::Core::FindWriter(Record& record, LinkId link,
                                                       uint32_t stage) {
  if (stage >= record.writers.size() || record.writers[stage].link != link) return nullptr;
  return &record.writers[stage];
}

// ---- the public face ---------------------------------------------------------------------------

KvReceiver::KvReceiver() = default;

std::unique_ptr<KvReceiver> KvReceiver::Create(LinkTable& links, const KvReceiverOptions& options,
                                               Callbacks callbacks, Metrics& metrics) {
  std::unique_ptr<KvReceiver> receiver(new KvReceiver);
  receiver->core_ = std::make_shared<Core>(links, options, std::move(callbacks), metrics);
  RunOn(links.transport(), [&] { receiver->core_->Start(); });
  return receiver;
}

KvReceiver::~KvReceiver() {
  RunOn(core_->links_.transport(), [this] { core_.reset(); });  // no callback after this
}

void KvReceiver::Grant(GrantRequest request) {
  core_->links_.transport().Post(
      [core = core_, request = std::move(request)] { core->Grant(request); });
}
void KvReceiver::Release(AttemptId attempt) {
  core_->links_.transport().Post([core = core_, attempt] { core->Release(attempt); });
}
void KvReceiver::Cancel(AttemptId attempt, const absl::Status& reason) {
  core_->links_.transport().Post(
      [core = core_, attempt, reason] { core->Cancel(attempt, reason); });
}

KvReceiver::Counts KvReceiver::counts() const { return core_->counts(); }

}  // namespace baleen::kv_transfer
