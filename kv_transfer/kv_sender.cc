#include "kv_transfer/kv_sender.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "kv_transfer/prefill_attempt.h"
#include "spdlog/spdlog.h"

namespace baleen::kv_transfer {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(20);
constexpr size_t kMaxTombstones = 4096;

}  // namespace

class KvSender::Core : public std::enable_shared_from_this<KvSender::Core> {
 public:
  Core(LinkTable& links, const KvSenderOptions& options, Callbacks callbacks, Metrics& metrics);
  void Start();
  void Begin(const Attempt& attempt);
  void PagesReady(AttemptId id, int first_page, const std::vector<PageId>& pages);
  void SetHandoff(AttemptId id, HandoffRecord record);
  void Abort(AttemptId id, const absl::Status& reason);

  LinkTable& links_;

 private:
  struct HeldGrant {
    Grant grant;
    LinkId link;
    TimePoint expires;
  };
  struct Chunk {
    int first_page = 0;
    int pages = 0;
  };
  struct Record {
    Attempt attempt;
    PrefillState state = PrefillState::kQueued;
    std::vector<PageId> pages;  // complete so far
    std::optional<HeldGrant> grant;
    std::deque<Chunk> ready;  // complete, not posted
    uint32_t next_chunk = 0;
    int chunks_in_flight = 0;
    int operations = 0;  // puts and flushes whose `done` is due: while > 0 source pages are read
    std::optional<HandoffRecord> handoff;
    absl::Status end;                 // why kDraining
    std::optional<LinkId> ack_drain;  // answer Drain here when quiet
    TimePoint begun;
  };
  struct Flow {  // per link
    int chunks_in_flight = 0;
    TimePoint progress;            // last completion, or first post after idleness
    std::deque<uint64_t> waiting;  // attempts with ready chunks, round robin
  };
  struct Posted {  // one chunk on its way
    AttemptId attempt;
    LinkId link;
    Chunk chunk;
    uint32_t number = 0;
    uint64_t bytes = 0;
    int due = 0;  // completions outstanding
    absl::Status status;
    TimePoint start;
  };

  void OnGrant(LinkId link, const Grant& grant);
  void OnRelease(LinkId link, const Release& release);
  void OnRevoke(LinkId link, const GrantRevoke& revoke);
  void OnDrain(LinkId link, const Drain& drain);
  void OnLink(LinkId link, LinkState state, const absl::Status& reason);
  absl::Status CheckGrant(const Record& record, const HeldGrant& grant) const;
  void TakeGrant(Record& record, HeldGrant grant);
  void AckDrain(LinkId link, GrantId grant);

  void Enqueue(Record& record);
  void Pump(LinkId link);
  bool PostNext(Record& record, Flow& flow);
  void PostChunk(Record& record, Flow& flow, const Chunk& chunk);
  void OnPosted(const std::shared_ptr<Posted>& posted, const absl::Status& status);
  void OnChunkOver(Record& record, const Posted& posted);
  void MaybeAllSent(Record& record);
  void Fail(Record& record, PrefillEvent event, const absl::Status& why, bool tell_decode);
  void MaybeQuiet(Record& record);
  void Close(Record& record, absl::Status status);
  void Apply(Record& record, PrefillEvent event);
  bool Tick();
  void Bury(AttemptId id, const absl::Status& why);
  Record* Find(AttemptId id);
  Record* FindGrant(GrantId grant, LinkId link);

  const KvSenderOptions options_;
  const Callbacks callbacks_;
  std::map<uint64_t, Record> records_;
  std::map<uint64_t, HeldGrant> early_;      // grants of attempts that have not begun
  std::map<uint64_t, absl::Status> buried_;  // attempts that ended, also before they began
  std::deque<uint64_t> burial_order_;
  std::map<uint64_t, Flow> flows_;

  prometheus::Counter& bytes_;
  prometheus::Counter& pieces_;
  prometheus::Histogram& posting_;
  prometheus::Histogram& chunk_seconds_;
  prometheus::Histogram& grant_wait_;
};

KvSender::Core::Core(LinkTable& links, const KvSenderOptions& options, Callbacks callbacks,
                     Metrics& metrics)
    : links_(links),
      options_(options),
      callbacks_(std::move(callbacks)),
      bytes_(metrics.Counter("transfer_sent_bytes_total", "Page bytes visible at decode")),
      pieces_(metrics.Counter("transfer_sent_pieces_total", "Puts; one per page and stage")),
      posting_(metrics.Seconds("transfer_posting_seconds", "Time to post a chunk's puts")),
      chunk_seconds_(
          metrics.Seconds("transfer_chunk_seconds", "From posting to visible at decode")),
      grant_wait_(metrics.Seconds("transfer_grant_wait_seconds", "From Begin to the grant")) {}

void KvSender::Core::Start() {
  links_.SetHandler(weak_from_this(), &Core::OnGrant);
  links_.SetHandler(weak_from_this(), &Core::OnRelease);
  links_.SetHandler(weak_from_this(), &Core::OnRevoke);
  links_.SetHandler(weak_from_this(), &Core::OnDrain);
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

void KvSender::Core::Begin(const Attempt& attempt) {
  BALEEN_CHECK(records_.count(attempt.id.value) == 0);
  Record& record = records_[attempt.id.value];
  record.attempt = attempt;
  record.begun = links_.transport().clock().Now();
  Apply(record, PrefillEvent::kScheduled);
  if (const auto dead = buried_.find(attempt.id.value); dead != buried_.end())
    return Fail(record, PrefillEvent::kFailed, dead->second, /*tell_decode=*/false);
  if (const auto early = early_.find(attempt.id.value); early != early_.end()) {
    HeldGrant grant = std::move(early->second);
    early_.erase(early);
    TakeGrant(record, std::move(grant));
  }
}

void KvSender::Core::PagesReady(AttemptId id, int first_page, const std::vector<PageId>& pages) {
  Record* record = Find(id);
  if (record == nullptr || !MayPost(record->state) || pages.empty()) return;
  BALEEN_CHECK(first_page == int(record->pages.size()));
  BALEEN_CHECK(first_page + int(pages.size()) <= record->attempt.pages);
  record->pages.insert(record->pages.end(), pages.begin(), pages.end());
  record->ready.push_back({.first_page = first_page, .pages = int(pages.size())});
  if (int(record->pages.size()) == record->attempt.pages) Apply(*record, PrefillEvent::kLastChunk);
  Enqueue(*record);
}

void KvSender::Core::SetHandoff(AttemptId id, HandoffRecord handoff) {
  BALEEN_CHECK(options_.stage == options_.stages - 1);
  Record* record = Find(id);
  if (record == nullptr || !MayPost(record->state)) return;
  record->handoff = std::move(handoff);
  MaybeAllSent(*record);
}

void KvSender::Core::Abort(AttemptId id, const absl::Status& reason) {
  if (Record* record = Find(id)) Fail(*record, PrefillEvent::kFailed, reason, /*tell_decode=*/true);
}

// ---- what decode says --------------------------------------------------------------------------

void KvSender::Core::OnGrant(LinkId link, const Grant& grant) {
  const TimePoint now = links_.transport().clock().Now();
  HeldGrant held = {.grant = grant,
                    .link = link,
                    .expires = now + std::chrono::milliseconds(grant.ttl_ms) - options_.ttl_margin};
  if (Record* record = Find(grant.attempt)) {
    if (!record->grant) return TakeGrant(*record, std::move(held));
    if (record->grant->grant.grant != grant.grant) return links_.Drop("second_grant");
    record->grant->expires = held.expires;  // a renewal
    return;
  }
  if (const auto dead = buried_.find(grant.attempt.value); dead != buried_.end()) {
    links_.SendMessage(link, kv_transfer::Abort{.grant = grant.grant,
                                                .attempt = grant.attempt,
                                                .code = uint32_t(dead->second.code()),
                                                .message = std::string(dead->second.message())});
    return links_.Drop("grant_for_ended_attempt");
  }
  if (early_.size() >= size_t(options_.max_early_grants) && early_.count(grant.attempt.value) == 0)
    return links_.Drop("too_many_early_grants");
  early_[grant.attempt.value] = std::move(held);
  if (callbacks_.granted) callbacks_.granted(grant.attempt);
}

absl::Status KvSender::Core::CheckGrant(const Record& record, const HeldGrant& held) const {
  const Grant& grant = held.grant;
  const auto info = links_.Info(held.link);
  if (!info || info->peer != record.attempt.decode)
    return absl::FailedPreconditionError("grant from another process than the attempt names");
  if (int(grant.stage) != options_.stage || int(grant.stages) != options_.stages)
    return absl::InvalidArgumentError(absl::StrCat("grant for stage ", grant.stage, " of ",
                                                   grant.stages, ", this is stage ", options_.stage,
                                                   " of ", options_.stages));
  if (grant.pages.size() != size_t(record.attempt.pages))
    return absl::InvalidArgumentError(absl::StrCat(
        "grant of ", grant.pages.size(), " pages, the prompt has ", record.attempt.pages));
  const PagePoolView& pool = links_.options().pool;
  if (!info->pool || info->pool->remote_key.empty())
    return absl::FailedPreconditionError("grant from a process that exports no pages");
  if (pool.page_offset + pool.page_bytes > info->pool->page_bytes)
    return absl::InvalidArgumentError("grant: this stage's share lies outside decode's page");
  for (uint32_t page : grant.pages)
    if (page >= info->pool->pages)
      return absl::OutOfRangeError(absl::StrCat("grant: page ", page, " of ", info->pool->pages));
  return absl::OkStatus();
}

void KvSender::Core::TakeGrant(Record& record, HeldGrant grant) {
  if (!MayPost(record.state)) return links_.Drop("grant_for_ended_attempt");
  const absl::Status good = CheckGrant(record, grant);
  record.grant = std::move(grant);
  if (!good.ok()) return Fail(record, PrefillEvent::kFailed, good, /*tell_decode=*/true);
  grant_wait_.Observe(Seconds(links_.transport().clock().Now() - record.begun));
  if (callbacks_.granted) callbacks_.granted(record.attempt.id);
  Enqueue(record);
}

void KvSender::Core::OnRelease(LinkId link, const Release& release) {
  Record* record = FindGrant(release.grant, link);
  if (record == nullptr || record->state != PrefillState::kAwaitRelease)
    return links_.Drop("late_release");
  Apply(*record, PrefillEvent::kReleased);
  Close(*record, absl::OkStatus());
}

void KvSender::Core::OnRevoke(LinkId link, const GrantRevoke& revoke) {
  if (Record* record = FindGrant(revoke.grant, link))
    Fail(*record, PrefillEvent::kFailed, absl::CancelledError("decode revoked the grant"), false);
}

void KvSender::Core::OnDrain(LinkId link, const Drain& drain) {
  early_.erase(drain.attempt.value);
  Record* record = Find(drain.attempt);
  if (record == nullptr) {
    Bury(drain.attempt, absl::CancelledError("decode drained the grant before the attempt began"));
    return AckDrain(link, drain.grant);
  }
  const bool same = record->grant && record->grant->grant.grant == drain.grant;
  if (record->grant && !same) return AckDrain(link, drain.grant);  // of an earlier grant
  record->ack_drain = link;
  if (!record->grant)  // the grant was never seen, or its link broke before; keep its id for the
                       // answer
    record->grant = HeldGrant{
        .grant = {.grant = drain.grant, .attempt = drain.attempt}, .link = link, .expires = {}};
  if (record->state == PrefillState::kDraining) return MaybeQuiet(*record);
  Fail(*record, PrefillEvent::kFailed, absl::CancelledError("decode drained the grant"), false);
}

// Puts of closed endpoints are over at this side; those of this one must have landed.
void KvSender::Core::AckDrain(LinkId link, GrantId grant) {
  links_.Flush(link, [this, weak = weak_from_this(), link, grant](const absl::Status& status) {
    const auto core = weak.lock();
    if (core == nullptr || !status.ok()) return;
    links_.SendMessage(link, DrainAck{.grant = grant, .stage = uint32_t(options_.stage)});
  });
}

void KvSender::Core::OnLink(LinkId link, LinkState state, const absl::Status& reason) {
  if (CarriesPages(state)) return Pump(link);
  if (state != LinkState::kFenced) return;
  flows_.erase(link.value);
  std::erase_if(early_, [link](const auto& entry) { return entry.second.link == link; });
  std::vector<AttemptId> lost;
  for (const auto& [id, record] : records_)
    if (record.grant && record.grant->link == link) lost.push_back(AttemptId{id});
  const absl::Status why = absl::UnavailableError(reason.message());
  for (AttemptId id : lost)
    if (Record* record = Find(id)) Fail(*record, PrefillEvent::kPeerLost, why, false);
}

// ---- posting -----------------------------------------------------------------------------------

void KvSender::Core::Enqueue(Record& record) {
  if (!record.grant || record.ready.empty()) return;
  Flow& flow = flows_[record.grant->link.value];
  if (std::find(flow.waiting.begin(), flow.waiting.end(), record.attempt.id.value) ==
      flow.waiting.end())
    flow.waiting.push_back(record.attempt.id.value);
  Pump(record.grant->link);
}

void KvSender::Core::Pump(LinkId link) {
  const auto it = flows_.find(link.value);
  if (it == flows_.end()) return;
  const auto info = links_.Info(link);
  if (!info || !CarriesPages(info->state)) return;
  Flow& flow = it->second;
  while (flow.chunks_in_flight < options_.window_chunks && !flow.waiting.empty()) {
    const AttemptId id{flow.waiting.front()};
    flow.waiting.pop_front();
    Record* record = Find(id);
    if (record != nullptr && PostNext(*record, flow)) flow.waiting.push_back(id.value);
  }
}

// Posts the next chunk; true when the attempt has more.
bool KvSender::Core::PostNext(Record& record, Flow& flow) {
  if (!MayPost(record.state) || record.ready.empty() || !record.grant) return false;
  if (links_.transport().clock().Now() >= record.grant->expires) {
    Fail(record, PrefillEvent::kFailed,
         absl::DeadlineExceededError("the grant's time to live ended"), /*tell_decode=*/true);
    return false;
  }
  const Chunk chunk = record.ready.front();
  record.ready.pop_front();
  PostChunk(record, flow, chunk);
  return !record.ready.empty();
}

void KvSender::Core::PostChunk(Record& record, Flow& flow, const Chunk& chunk) {
  const PagePoolView& pool = links_.options().pool;
  const Grant& grant = record.grant->grant;
  const TimePoint now = links_.transport().clock().Now();
  auto posted = std::make_shared<Posted>();
  posted->attempt = record.attempt.id;
  posted->link = record.grant->link;
  posted->chunk = chunk;
  posted->number = record.next_chunk++;
  posted->start = now;
  posted->due = 2;  // the put and the flush
  posted->bytes = uint64_t(chunk.pages) * pool.page_bytes;
  if (flow.chunks_in_flight++ == 0) flow.progress = now;
  ++record.chunks_in_flight;
  record.operations += posted->due;
  const auto done = [weak = weak_from_this(), posted](const absl::Status& status) {
    if (auto core = weak.lock()) core->OnPosted(posted, status);
  };
  const LinkId link = posted->link;
  std::vector<LinkTable::PagePut> puts;
  for (int page = chunk.first_page; page < chunk.first_page + chunk.pages; ++page) {
    const std::byte* local = pool.Page(record.pages[size_t(page)]);
    puts.push_back(
        {.local = {local, pool.page_bytes}, .page = PageId{int32_t(grant.pages[size_t(page)])}});
  }
  links_.PutPages(link, puts, pool.page_offset, done);
  pieces_.Increment(double(puts.size()));
  links_.Flush(link, done);
  posting_.Observe(Seconds(links_.transport().clock().Now() - now));
}

void KvSender::Core::OnPosted(const std::shared_ptr<Posted>& posted, const absl::Status& status) {
  if (posted->status.ok()) posted->status = status;  // the first error counts (R7)
  const auto flow = flows_.find(posted->link.value);
  if (flow != flows_.end()) flow->second.progress = links_.transport().clock().Now();
  Record* record = Find(posted->attempt);
  BALEEN_CHECK(record != nullptr);  // not closed while operations are due
  --record->operations;
  if (--posted->due == 0) {
    if (flow != flows_.end()) --flow->second.chunks_in_flight;
    OnChunkOver(*record, *posted);
  } else if (record->state == PrefillState::kDraining) {
    MaybeQuiet(*record);
  }
  Pump(posted->link);
}

void KvSender::Core::OnChunkOver(Record& record, const Posted& posted) {
  --record.chunks_in_flight;
  const bool draining = record.state == PrefillState::kDraining;
  if (!posted.status.ok())
    return draining ? MaybeQuiet(record)
                    : Fail(record, PrefillEvent::kFailed, posted.status, /*tell_decode=*/true);
  bytes_.Increment(double(posted.bytes));
  chunk_seconds_.Observe(Seconds(links_.transport().clock().Now() - posted.start));
  links_.SendMessage(posted.link, ChunkDone{.grant = record.grant->grant.grant,
                                            .stage = uint32_t(options_.stage),
                                            .chunk = posted.number,
                                            .first_page = uint32_t(posted.chunk.first_page),
                                            .page_count = uint32_t(posted.chunk.pages),
                                            .components = options_.components,
                                            .bytes = posted.bytes});
  // Also while draining: decode sees that what was posted still moves.
  draining ? MaybeQuiet(record) : MaybeAllSent(record);
}

void KvSender::Core::MaybeAllSent(Record& record) {
  if (record.state != PrefillState::kSending || !record.grant) return;
  if (!record.ready.empty() || record.chunks_in_flight > 0) return;
  const bool last_stage = options_.stage == options_.stages - 1;
  if (last_stage) {
    if (!record.handoff) return;
    links_.SendMessage(record.grant->link,
                       kv_transfer::Handoff{.grant = record.grant->grant.grant,
                                            .attempt = record.attempt.id,
                                            .stage = uint32_t(options_.stage),
                                            .pages = uint32_t(record.attempt.pages),
                                            .record = *std::move(record.handoff)});
    record.handoff.reset();
  }
  Apply(record, PrefillEvent::kAllSent);
  if (callbacks_.handed_off) callbacks_.handed_off(record.attempt.id);
}

// ---- ends --------------------------------------------------------------------------------------

void KvSender::Core::Apply(Record& record, PrefillEvent event) {
  const auto next = Next(record.state, event);
  BALEEN_CHECK_MSG(next.has_value(), Name(record.state));
  record.state = *next;
}

void KvSender::Core::Fail(Record& record, PrefillEvent event, const absl::Status& why,
                          bool tell_decode) {
  if (!Next(record.state, event)) return;  // ending already; the first reason stays
  Apply(record, event);
  record.end = why;
  record.ready.clear();
  if (tell_decode && record.grant)
    links_.SendMessage(record.grant->link,
                       kv_transfer::Abort{.grant = record.grant->grant.grant,
                                          .attempt = record.attempt.id,
                                          .code = uint32_t(why.code()),
                                          .message = std::string(why.message())});
  if (record.state == PrefillState::kClosed) return Close(record, why);
  MaybeQuiet(record);
}

void KvSender::Core::MaybeQuiet(Record& record) {
  if (record.state != PrefillState::kDraining || record.operations > 0) return;
  Apply(record, PrefillEvent::kQuiet);
  if (record.ack_drain) AckDrain(*record.ack_drain, record.grant->grant.grant);
  Close(record, record.end);
}

void KvSender::Core::Close(Record& record, absl::Status status) {
  BALEEN_CHECK(record.operations == 0 && record.state == PrefillState::kClosed);
  const AttemptId id = record.attempt.id;
  records_.erase(id.value);
  Bury(id, status);
  callbacks_.closed(id, status);
}

void KvSender::Core::Bury(AttemptId id, const absl::Status& why) {
  if (!buried_.emplace(id.value, why).second) return;
  burial_order_.push_back(id.value);
  if (burial_order_.size() <= kMaxTombstones) return;
  buried_.erase(burial_order_.front());
  burial_order_.pop_front();
}

bool KvSender::Core::Tick() {
  const TimePoint now = links_.transport().clock().Now();
  std::erase_if(early_, [now](const auto& entry) { return now >= entry.second.expires; });
  std::vector<LinkId> stuck;
  for (const auto& [link, flow] : flows_)
    if (flow.chunks_in_flight > 0 && now - flow.progress > options_.transfer_timeout)
      stuck.push_back(LinkId{link});
  // Posted pieces cannot be taken back one by one: only the end of the endpoint ends them.
  for (LinkId link : stuck)
    links_.Close(link, absl::DeadlineExceededError("posted pages make no progress"));
  return true;
}

KvSender::Core::Record* KvSender::Core::Find(AttemptId id) {
  const auto it = records_.find(id.value);
  return it == records_.end() ? nullptr : &it->second;
}

KvSender::Core::Record* KvSender::Core::FindGrant(GrantId grant, LinkId link) {
  for (auto& [id, record] : records_)
    if (record.grant && record.grant->grant.grant == grant && record.grant->link == link)
      return &record;
  return nullptr;
}

// ---- the public face ---------------------------------------------------------------------------

KvSender::KvSender() = default;

std::unique_ptr<KvSender> KvSender::Create(LinkTable& links, const KvSenderOptions& options,
                                           Callbacks callbacks, Metrics& metrics) {
  std::unique_ptr<KvSender> sender(new KvSender);
  sender->core_ = std::make_shared<Core>(links, options, std::move(callbacks), metrics);
  RunOn(links.transport(), [&] { sender->core_->Start(); });
  return sender;
}

KvSender::~KvSender() {
  RunOn(core_->links_.transport(), [this] { core_.reset(); });  // no callback after this
}

void KvSender::Begin(const Attempt& attempt) {
  core_->links_.transport().Post([core = core_, attempt] { core->Begin(attempt); });
}
void KvSender::PagesReady(AttemptId attempt, int first_page, std::vector<PageId> pages) {
  core_->links_.transport().Post([core = core_, attempt, first_page, pages = std::move(pages)] {
    core->PagesReady(attempt, first_page, pages);
  });
}
void KvSender::Handoff(AttemptId attempt, HandoffRecord record) {
  core_->links_.transport().Post(
      [core = core_, attempt, record = std::move(record)] { core->SetHandoff(attempt, record); });
}
void KvSender::Abort(AttemptId attempt, const absl::Status& reason) {
  core_->links_.transport().Post([core = core_, attempt, reason] { core->Abort(attempt, reason); });
}

}  // namespace baleen::kv_transfer
