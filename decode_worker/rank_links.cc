#include "decode_worker/rank_links.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"

namespace baleen::decode_worker {
namespace {

using kv_transfer::LinkId;
using kv_transfer::LinkState;

constexpr uint8_t kRankMessage = kv_transfer::kFirstUserType + 8;

}  // namespace

// Everything but the waiting in Connect happens on the transport's thread.
class RankLinks::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(kv_transfer::LinkTable& links, Metrics& metrics)
      : links_(links),
        strangers_(metrics.Counter("rank_messages_dropped_total",
                                   "Messages of processes that are no rank of this group.")) {}

  void Attach() {
    const std::weak_ptr<Core> weak = weak_from_this();
    links_.SetHandler(kRankMessage, [weak](LinkId from, std::span<const std::byte> header,
                                           kv_transfer::Buffer payload) {
      if (auto core = weak.lock()) core->OnMessage(from, header, std::move(payload));
    });
    links_.AddObserver([weak](LinkId link, LinkState state, const absl::Status& why) {
      if (auto core = weak.lock()) core->OnState(link, state, why);
    });
  }

  void Start(RankMesh& mesh, const std::vector<kv_transfer::PeerAddress>& ranks) {
    mesh_ = &mesh;
    ranks_ = ranks;
    by_rank_.resize(ranks.size());
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      if (int(rank) == mesh.rank()) continue;
      // One side dials; a link that the other side opened may be here already.
      if (int(rank) > mesh.rank()) {
        auto link = links_.Connect(ranks[rank]);
        if (!link.ok()) return Lost(int(rank), link.status());
        SetLink(int(rank), *link);
      } else if (auto link = links_.Find(ranks[rank].incarnation)) {
        SetLink(int(rank), *link);
      }
    }
    for (auto& [from, header, payload] : std::exchange(early_, {}))
      OnMessage(from, header, std::move(payload));
  }

  absl::Status AwaitUp(int own_rank, int size, TimePoint deadline) {
    MutexLock lock(mu_);
    while (failure_.ok() && int(up_.size()) < size - 1) {
      if (changed_.WaitUntil(mu_, deadline) || int(up_.size()) == size - 1) continue;
      for (int rank = 0; rank < size; ++rank)
        if (rank != own_rank && !up_.contains(rank))
          return absl::DeadlineExceededError(
              absl::StrCat("the link to decode rank ", rank, " did not come up"));
    }
    return failure_;
  }

  void Send(std::span<const RankMesh::Envelope> envelopes, int parity) {
    for (const RankMesh::Envelope& e : envelopes) {
      const auto done = [self = shared_from_this(), parity, peer = e.peer](absl::Status status) {
        if (!status.ok() && !self->finished_)
          status = absl::UnavailableError(
              absl::StrCat("decode rank ", peer, " is gone: ", status.ToString()));
        else
          status = absl::OkStatus();
        self->mesh_->SendDone(parity, status);
      };
      links_.Send(*by_rank_[size_t(e.peer)], kRankMessage, e.header, e.payload, done);
    }
  }

  void Finish() {
    finished_ = true;
    {
      MutexLock lock(mu_);
      if (failure_.ok()) failure_ = absl::CancelledError("the group ends");
    }
    changed_.NotifyAll();
  }
  kv_transfer::LinkTable& links() { return links_; }

 private:
  struct Early {
    LinkId from;
    std::vector<std::byte> header;
    kv_transfer::Buffer payload;
  };

  std::optional<int> RankOf(LinkId link) {
    for (size_t rank = 0; rank < by_rank_.size(); ++rank)
      if (by_rank_[rank] == link) return int(rank);
    const auto info = links_.Info(link);
    for (size_t rank = 0; info && rank < ranks_.size(); ++rank)
      if (ranks_[rank].incarnation == info->peer && int(rank) != mesh_->rank()) return int(rank);
    return std::nullopt;
  }

  void OnMessage(LinkId from, std::span<const std::byte> header, kv_transfer::Buffer payload) {
    if (mesh_ == nullptr) {
      early_.push_back({from, {header.begin(), header.end()}, std::move(payload)});
      return;
    }
    if (const auto rank = RankOf(from))
      mesh_->Deliver(*rank, header, std::move(payload));
    else
      strangers_.Increment();
  }

  void OnState(LinkId link, LinkState state, const absl::Status& why) {
    if (mesh_ == nullptr) return;
    const auto rank = RankOf(link);
    if (!rank) return;
    if (state == LinkState::kFenced) {
      // A link that lost against another one to the same rank is no loss.
      if (by_rank_[size_t(*rank)] == link) Lost(*rank, why);
    } else {
      SetLink(*rank, link);
    }
  }

  void SetLink(int rank, LinkId link) {
    by_rank_[size_t(rank)] = link;
    const auto info = links_.Info(link);
    if (!info || !kv_transfer::CarriesPages(info->state)) return;
    {
      MutexLock lock(mu_);
      up_[rank] = true;
    }
    changed_.NotifyAll();
  }

  void Lost(int rank, const absl::Status& why) {
    if (finished_) return;
    const absl::Status status =
        absl::UnavailableError(absl::StrCat("decode rank ", rank, " is gone: ", why.ToString()));
    {
      MutexLock lock(mu_);
      if (failure_.ok()) failure_ = status;
    }
    changed_.NotifyAll();
    mesh_->Fail(status);
  }

  kv_transfer::LinkTable& links_;
  prometheus::Counter& strangers_;
  RankMesh* mesh_ = nullptr;
  bool finished_ = false;
  std::vector<kv_transfer::PeerAddress> ranks_;
  std::vector<std::optional<LinkId>> by_rank_;
  std::vector<Early> early_;

  Mutex mu_;
  CondVar changed_;
  std::map<int, bool> up_ ABSL_GUARDED_BY(mu_);
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
};

RankLinks::RankLinks() = default;
// Tasks and `done`s that still run keep the core; the handler and the observer no longer find it.
RankLinks::~RankLinks() { Finish(); }

std::unique_ptr<RankLinks> RankLinks::Create(kv_transfer::LinkTable& links, Metrics& metrics) {
  std::unique_ptr<RankLinks> result(new RankLinks);
  result->core_ = std::make_shared<Core>(links, metrics);
  links.transport().Post([core = result->core_] { core->Attach(); });
  return result;
}

absl::Status RankLinks::Connect(RankMesh& mesh, const std::vector<kv_transfer::PeerAddress>& ranks,
                                Duration deadline) {
  const TimePoint until = SteadyClock().Now() + deadline;
  core_->links().transport().Post([core = core_, &mesh, ranks] { core->Start(mesh, ranks); });
  return core_->AwaitUp(mesh.rank(), mesh.size(), until);
}

void RankLinks::Post(std::span<const RankMesh::Envelope> envelopes, int parity) {
  core_->links().transport().Post(
      [core = core_, envelopes, parity] { core->Send(envelopes, parity); });
}

void RankLinks::Finish() {
  core_->links().transport().Post([core = core_] { core->Finish(); });
}

}  // namespace baleen::decode_worker
